"""Meta-optimization: searching the outer parameters, and learning the rule of the inner update itself."""
