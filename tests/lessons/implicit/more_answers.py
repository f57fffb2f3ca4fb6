"""More answers to the exercises of notebook 08, written after the checks: right ones and slips of learners."""

import torch
from torch.func import grad, jvp, vjp


def cg(product, b, iterations, *, ratio=lambda new, old: new / old, size=lambda rr, pap: rr / pap, keep=None):
    v, r = torch.zeros_like(b), b.clone()
    p, rr = r.clone(), r @ r
    for _ in range(iterations):
        if rr <= 1e-30 * (b @ b):
            break
        ap = product(p)
        alpha = size(rr, p @ ap)
        v, r = v + alpha * p, r - alpha * ap
        new = r @ r
        p, rr = r + ratio(new, rr) * p, new
    return v if keep is None else keep(v, r, p)


def cg_in_place(product, b, *, iterations):
    """Own tensors, changed in place: nothing of the caller's."""
    v, r = torch.zeros_like(b), b.clone()
    p, old = b.clone(), float(b @ b)
    for _ in range(iterations):
        if old == 0:
            break
        image = product(p)
        step = old / float(p @ image)
        v.add_(p, alpha=step)
        r.sub_(image, alpha=step)
        old, before = float(r @ r), old
        p.mul_(old / before).add_(r)
    return v


def cg_float32_inside(product, b, *, iterations):
    return cg(lambda p: product(p.double()).float(), b.float(), iterations).double()


def hyper_by_vjp(inner_loss, outer_loss, phi, lam, solve):
    b, direct = grad(outer_loss, (0, 1))(phi, lam)
    v = solve(lambda p: jvp(lambda at: grad(inner_loss)(at, lam), (phi,), (p,))[1], b)
    return direct - vjp(lambda at: grad(inner_loss)(phi, at), lam)[1](v)[0]


def hyper_by_scalars(inner_loss, outer_loss, phi, lam, solve):
    """v held fixed, the number ∇L_inner · v differentiated."""
    phi, lam = phi.detach().requires_grad_(), lam.detach().requires_grad_()
    g = torch.autograd.grad(inner_loss(phi, lam), phi, create_graph=True)[0]
    outer = outer_loss(phi, lam)
    b = torch.autograd.grad(outer, phi, retain_graph=True)[0]
    v = solve(lambda p: torch.autograd.grad(g, phi, p, retain_graph=True)[0], b).detach()
    through = torch.autograd.grad((g * v).sum(), lam)[0]
    direct = torch.autograd.grad(outer, lam, allow_unused=True)[0]
    return -through if direct is None else direct - through


def hyper_with(change):
    """change(direct, through)."""

    def hyper(inner_loss, outer_loss, phi, lam, solve):
        right = hyper_by_vjp(inner_loss, outer_loss, phi, lam, solve)
        direct = grad(outer_loss, 1)(phi, lam)
        return change(direct, direct - right)

    return hyper


def series(product, b, terms, rate, *, first=None, step=lambda term, image, rate: term - rate * image, front=True):
    term = b if first is None else first(b, rate)
    total = torch.zeros_like(b)
    for _ in range(terms):
        total, term = total + term, step(term, product(term), rate)
    return rate * total if front else total


def neumann_by_horner(product, b, *, terms, rate):
    v = rate * b
    for _ in range(terms - 1):
        v = rate * b + v - rate * product(v)
    return v


def neumann_exact_count(product, b, *, terms, rate):
    found, term = b.clone(), b.clone()
    for _ in range(1, terms):
        term = term - rate * product(term)
        found = found + term
    return found * rate


def neumann_by_residuals(product, b, *, terms, rate):
    v = rate * b
    for _ in range(terms - 1):
        v = v + rate * (b - product(v))
    return v


def neumann_in_place(product, b, *, terms, rate):
    term = total = b.clone()
    for _ in range(terms - 1):
        term -= rate * product(term)
        total += term
    return rate * total


def meta_with(matrix=lambda p, hp, lam: p + hp / lam, b=lambda g, lam: g, out=lambda v, lam: v, more=0):
    def meta(product, outer_gradient, *, strength, iterations):
        right = b(outer_gradient, strength)
        return out(cg(lambda p: matrix(p, product(p), strength), right, iterations + more), strength)

    return meta


def cg_until(tolerance):
    """Stops when r·r is below this share of b·b."""

    def conjugate_gradient(product, b, *, iterations):
        v, r = torch.zeros_like(b), b
        p, rr = r, r @ r
        for _ in range(iterations):
            if rr <= tolerance * (b @ b):
                break
            ap = product(p)
            v, r, old = v + rr / (p @ ap) * p, r - rr / (p @ ap) * ap, rr
            rr = r @ r
            p = r + rr / old * p
        return v

    return conjugate_gradient


def hyper_of(number, times=False):
    """number(slope, p) is differentiated by φ for the product; times: and multiplied by p then."""

    def hyper(inner_loss, outer_loss, phi, lam, solve):
        phi, lam = phi.detach().requires_grad_(), lam.detach().requires_grad_()
        zeros = {"allow_unused": True, "materialize_grads": True}
        b, direct = torch.autograd.grad(outer_loss(phi, lam), (phi, lam), **zeros)
        (slope,) = torch.autograd.grad(inner_loss(phi, lam), phi, create_graph=True)

        def product(p):
            (found,) = torch.autograd.grad(number(slope, p), phi, retain_graph=True)
            return found * p if times else found

        return direct - torch.autograd.grad(slope @ solve(product, b), lam, **zeros)[0]

    return hyper


def neumann_returns_at_once(product, b, *, terms, rate):
    term = total = b
    for _ in range(terms - 1):
        term = term - rate * product(term)
        total = total + term
        return rate * total


RIGHT = {
    "conjugate_gradient": [lambda product, b, *, iterations: cg(product, b, iterations), cg_in_place],
    "hypergradient": [hyper_by_vjp, hyper_by_scalars],
    "neumann": [neumann_by_horner, neumann_exact_count, neumann_by_residuals],
    "meta_gradient": [
        meta_with(),
        meta_with(matrix=lambda p, hp, lam: lam * p + hp, out=lambda v, lam: lam * v),
    ],
}

WRONG = {
    "conjugate_gradient": {
        "loose tolerance": (cg_until(1e-2), "You stop too early"),
        "tolerance 1e-3": (cg_until(1e-3), "You stop too early"),
        "tolerance 1e-6": (cg_until(1e-6), "You stop too early"),
        "tolerance 1e-8": (cg_until(1e-8), "You stop too early"),
        "half step": (
            lambda product, b, *, iterations: cg(product, b, iterations, size=lambda rr, pap: rr / pap / 2),
            "The size is only half",
        ),
        "size upside down": (
            lambda product, b, *, iterations: cg(product, b, iterations, size=lambda rr, pap: pap / rr),
            "The size is upside down",
        ),
        "direction": (lambda product, b, *, iterations: cg(product, b, iterations, keep=lambda v, r, p: p), ""),
        "minus": (lambda product, b, *, iterations: -cg(product, b, iterations), "with the other sign"),
        "return in the loop": (
            lambda product, b, *, iterations: cg(product, b, min(iterations, 1)),
            "Is the `return` inside the loop?",
        ),
        "float32 inside": (cg_float32_inside, "in single precision"),
        "no ratio": (
            lambda product, b, *, iterations: cg(product, b, iterations, ratio=lambda new, old: 1.0),
            "The ratio is missing",
        ),
    },
    "hypergradient": {
        "sum times sum": (hyper_of(lambda slope, p: slope.sum() * p.sum()), "is not slope · p"),
        "sum, then p": (hyper_of(lambda slope, p: slope.sum(), times=True), "p came in too late"),
        "minus H": (hyper_of(lambda slope, p: -slope @ p), "Your product is −H p"),
        "first entry": (hyper_of(lambda slope, p: slope[0] * p[0]), "has no inverse"),
        "half the way through": (hyper_with(lambda direct, through: direct - through / 2), "counts half"),
        "minus all": (hyper_with(lambda direct, through: through - direct), "with the other sign"),
        "mean": (hyper_with(lambda direct, through: (direct - through) / len(direct)), "a mean where a sum"),
        "direct twice": (hyper_with(lambda direct, through: 2 * direct - through), "counts twice"),
    },
    "neumann": {
        "return in the loop": (neumann_returns_at_once, "Does the `return` stand inside a loop"),
        "first rate too many": (
            lambda product, b, *, terms, rate: series(product, b, terms, rate, first=lambda b, rate: rate * b),
            "`rate` times the right ones",
        ),
        "alternating": (
            lambda product, b, *, terms, rate: series(product, b, terms, rate, step=lambda t, i, rate: -rate * i),
            "powers of −ηA",
        ),
        "half": (lambda product, b, *, terms, rate: series(product, b, terms, rate) / 2, "half of the right ones"),
        "from 1 to K": (
            lambda product, b, *, terms, rate: series(product, b, terms + 1, rate) - rate * b,
            "The first term, b itself, is left out of the sum: K",
        ),
        "from 1 to K − 1": (
            lambda product, b, *, terms, rate: series(product, b, terms, rate) - rate * b,
            "and K − 1 others are there",
        ),
        "one tensor": (neumann_in_place, "Term and sum are the same tensor"),
        "one step of descent": (lambda product, b, *, terms, rate: rate * b, "the first term alone"),
    },
    "meta_gradient": {
        "I − H/λ": (meta_with(matrix=lambda p, hp, lam: p - hp / lam), "Sign: the matrix is I + H/λ"),
        "λ²": (meta_with(matrix=lambda p, hp, lam: p + hp / lam**2), "`strength`²"),
        "minus": (meta_with(out=lambda v, lam: -v), "with the other sign"),
        "2/λ": (meta_with(matrix=lambda p, hp, lam: p + 2 * hp / lam), "`strength` / 2"),
    },
}
