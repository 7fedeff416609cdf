"""Who waits for something that all share."""

from collections import OrderedDict
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)


class Rota(Generic[T]):
    """Those who wait, in the order of their turns: owners take turns, and of one owner first come is first served."""

    def __init__(self) -> None:
        # Ordered dictionaries, because one that gives up leaves from the middle, and a plain dictionary slows down when
        # its front is taken away again and again.
        self._queues: OrderedDict[str, OrderedDict[T, None]] = OrderedDict()
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[T]:
        """In no order that means anything."""
        return (waiter for queue in self._queues.values() for waiter in queue)

    @property
    def owners(self) -> int:
        """How many there are of whom somebody waits."""
        return len(self._queues)

    def of(self, owner: str) -> int:
        """How many wait of this one."""
        return len(self._queues.get(owner, ()))

    @property
    def first(self) -> tuple[str, T] | None:
        """Whose turn it is, and of whom; None when nobody waits."""
        if not self._queues:
            return None
        owner, queue = next(iter(self._queues.items()))
        return owner, next(iter(queue))

    def add(self, owner: str, waiter: T) -> None:
        """At the end of its owner's."""
        self._queues.setdefault(owner, OrderedDict())[waiter] = None
        self._length += 1

    def remove(self, owner: str, waiter: T) -> None:
        """It no longer waits, which costs its owner no turn. One that is not there stays away."""
        queue = self._queues.get(owner)
        if queue is None or waiter not in queue:
            return
        del queue[waiter]
        self._length -= 1
        if not queue:
            del self._queues[owner]

    def serve(self, owner: str, waiter: T) -> None:
        """It has had its turn; its owner's next comes after everybody else's."""
        self.remove(owner, waiter)
        if owner in self._queues:
            self._queues.move_to_end(owner)
