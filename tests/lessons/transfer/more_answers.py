"""More answers to the exercises of notebook 16, written after the checks: right ones and slips of learners."""

import torch
from torch.nn import functional as F

from mlcourse.lessons.transfer import checks


def head_by_products(support, labels, queries, centre):
    """‖q − c‖² = ‖q‖² − 2 q·c + ‖c‖²."""
    s, q = (F.normalize(x - centre, dim=-1) for x in (support, queries))
    member = (labels[None] == labels.unique()[:, None]).to(s.dtype)
    centroids = member @ s / member.sum(1, keepdim=True)
    return 2 * q @ centroids.T - q.pow(2).sum(1, keepdim=True) - centroids.pow(2).sum(1)


def head_by_index(support, labels, queries, centre):
    s, q = ((x - centre) / torch.linalg.vector_norm(x - centre, dim=1, keepdim=True) for x in (support, queries))
    way = labels.max() + 1
    centroids = torch.zeros(way, s.shape[1], dtype=s.dtype).index_add(0, labels, s) / labels.bincount()[:, None]
    return -((q.unsqueeze(1) - centroids.unsqueeze(0)) ** 2).sum(-1)


def head(change):
    def scored(support, labels, queries, centre):
        return change(
            support, labels, queries, centre, checks.transfer_head.reference(support, labels, queries, centre)
        )

    return scored


def flop_by_sum(stages):
    return sum(
        n * sum((4 if k == 0 else 6) * a * b * s**2 * h * w for k, (a, b, s, h, w) in enumerate(layers))
        for layers, n in stages
    )


def flop_by_passes(stages):
    forward = backward = 0
    for layers, n in stages:
        for k, (a, b, s, h, w) in enumerate(layers):
            one = 2 * (a * s * s) * (b * h * w) * n
            forward += one
            backward += one + (one if k else 0)
    return torch.tensor(forward + backward, dtype=torch.float64)


def flop(change):
    def counted(stages):
        return change(stages, checks.training_flop.reference(stages))

    return counted


def soft_by_softmax(student, teacher, temperature):
    with torch.no_grad():
        p = torch.softmax(teacher / temperature, dim=-1)
    log_q = (student / temperature).log_softmax(-1)
    return temperature**2 * (p * p.log() - p * log_q).sum(-1).mean(0)


def soft_by_entropy(student, teacher, temperature):
    """Cross-entropy with soft targets, less the teacher's own entropy."""
    p = (teacher.detach() / temperature).softmax(1)
    cross = F.cross_entropy(student / temperature, p)
    return (cross - torch.distributions.Categorical(probs=p).entropy().mean()) * temperature * temperature


def soft(change):
    def lost(student, teacher, temperature):
        return change(student, teacher, temperature, checks.soft_loss.reference(student, teacher, temperature))

    return lost


def learnt_by_backward(weights, pictures, labels, rate, real, real_labels):
    w = weights.clone().requires_grad_()
    x, a = pictures.clone().requires_grad_(), rate.clone().requires_grad_()
    logits = x @ w
    inner = (logits.logsumexp(1) - logits.gather(1, labels[:, None])[:, 0]).mean()
    (slope,) = torch.autograd.grad(inner, w, create_graph=True)
    loss = F.cross_entropy(real @ (w - a * slope), real_labels)
    loss.backward()
    return loss.detach(), x.grad, a.grad


def learnt_by_vjp(weights, pictures, labels, rate, real, real_labels):
    def outer(x, a):
        slope = torch.func.grad(lambda w: F.cross_entropy(x @ w, labels))(weights)
        return F.cross_entropy(real @ (weights - a * slope), real_labels)

    loss, back = torch.func.vjp(outer, pictures, rate)
    return (loss, *back(torch.ones_like(loss)))


def learnt(change):
    def taught(weights, pictures, labels, rate, real, real_labels):
        return change(rate, *checks.learnt_step.reference(weights, pictures, labels, rate, real, real_labels))

    return taught


RIGHT = {
    "transfer_head": [head_by_products, head_by_index],
    "training_flop": [flop_by_sum, flop_by_passes],
    "soft_loss": [soft_by_softmax, soft_by_entropy],
    "learnt_step": [learnt_by_backward, learnt_by_vjp],
}

WRONG = {
    "transfer_head": {
        "half": (head(lambda s, y, q, c, right: right / 2), "half of the right ones"),
        "plus": (head(lambda s, y, q, c, right: -right), "Put a minus before them"),
        "roots": (head(lambda s, y, q, c, right: -(-right).sqrt()), "not squared"),
        "labels": (head(lambda s, y, q, c, right: right.argmax(1)), "has shape"),
        "softmax": (head(lambda s, y, q, c, right: right.softmax(1)), "This is a softmax of the scores"),
        "to the centre": (
            lambda s, y, q, c: checks.transfer_head.reference(s, y, q, torch.zeros_like(c)),
            "The features are not centred",
        ),
        "rounded": (head(lambda s, y, q, c, right: (right * 10).round() / 10), "rounded or cut off"),
        "least": (head(lambda s, y, q, c, right: right - right.amax(1, keepdim=True)), ""),
    },
    "training_flop": {
        "twice": (flop(lambda stages, right: 2 * right), "twice the right ones"),
        "in millions": (flop(lambda stages, right: right / 1e6), ""),
        "two numbers": (flop(lambda stages, right: [right, right]), "list"),
        "text": (flop(lambda stages, right: str(right)), "str"),
        "one tensor": (flop(lambda stages, right: torch.tensor([float(right)])), "has shape"),
        "products": (flop(lambda stages, right: right // 2), "multiplications only"),
        "minus one": (flop(lambda stages, right: right * 1.02), ""),
    },
    "soft_loss": {
        "minus": (soft(lambda s, t, T, right: -right), "minus the right one"),
        "half": (soft(lambda s, t, T, right: right / 2), "half of the right ones"),
        "root": (soft(lambda s, t, T, right: right.sqrt()), ""),
        "hard, on the student": (lambda s, t, T: F.cross_entropy(s, t.argmax(1)), "the teacher's best class only"),
        "kl_div's mean": (
            lambda s, t, T: T**2 * F.kl_div((s / T).log_softmax(1), (t.detach() / T).softmax(1), reduction="mean"),
            "You divide by rows and by classes",
        ),
        "exchanged": (
            lambda s, t, T: T**2 * F.kl_div((t.detach() / T).log_softmax(1), (s / T).softmax(1), reduction="batchmean"),
            "The two have changed places",
        ),
        "of the logits": (lambda s, t, T: F.mse_loss(s, t.detach()), "squared differences of the logits"),
        "teacher learns": (
            lambda s, t, T: (
                T**2 * F.kl_div((s / T).log_softmax(1), (t / T).log_softmax(1), log_target=True, reduction="batchmean")
            ),
            "a gradient flows into the teacher",
        ),
    },
    "learnt_step": {
        "double pictures": (learnt(lambda a, loss, x, r: (loss, 2 * x, r)), "twice the right ones"),
        "zero": (learnt(lambda a, loss, x, r: (loss, 0 * x, r)), "no gradient arrives at the pictures"),
        "minus": (learnt(lambda a, loss, x, r: (loss, -x, r)), "it has the other sign"),
        "per picture": (learnt(lambda a, loss, x, r: (loss, x.sum(0), r)), "has shape"),
        "one": (learnt(lambda a, loss, x, r: loss), "it needs 3 results"),
        "more": (learnt(lambda a, loss, x, r: (loss, x, r, a)), "it needs 3 results"),
        "loss doubled": (learnt(lambda a, loss, x, r: (2 * loss, x, r)), "twice the right ones"),
    },
}
