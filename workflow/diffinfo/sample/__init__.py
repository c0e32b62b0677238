"""Text generation: one protocol, two engines."""
