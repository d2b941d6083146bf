"""How much of what nobody vouches for the page has room for."""

from __future__ import annotations

from dataclasses import dataclass

MOST_DRAWN = 2_500_000
MOST_PICTURED = 4_000_000


@dataclass
class Budget:
    """Bytes that are left; a page of any run stays below ten million of them."""

    left: int

    def take(self, size: int) -> bool:
        """Whether so much fits; what fits is taken."""
        if size > self.left:
            return False
        self.left -= size
        return True


def drawings() -> Budget:
    """For answers as their tasks render them; beyond it they are shown as text."""
    return Budget(MOST_DRAWN)


def pictures() -> Budget:
    """For pictures of samples, as `data:` addresses."""
    return Budget(MOST_PICTURED)
