"""Which allowed place is better: policies, and the placement by their scores."""
