"""Tables, figures and claims: the paper's results beside its printed numbers. Nothing here imports torch."""
