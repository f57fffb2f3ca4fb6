"""Meta-gradients: the derivative of the outer loss through the inner process, exactly, implicitly or cut short."""
