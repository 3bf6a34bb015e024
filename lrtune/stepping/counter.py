"""How many real steps an optimizer has made."""

from collections import deque

import torch


class StepCounter:
    """Counts real optimizer steps, without waiting for a GPU at each of them.

    Only the GPU knows whether it skipped the step of a fused optimizer under a gradient scaler. The
    answer is copied to the host in the background and read once it has arrived, usually a step or
    two later.
    """

    def __init__(self, num_steps: int = 0) -> None:
        self._num_steps = num_steps
        self._pending: deque[tuple[torch.Tensor, torch.Event]] = deque()

    def count(self, overflow: torch.Tensor | None) -> None:
        """Counts a step that has just ended.

        Args:
            overflow: not 0 where it was no real step; `None` where it certainly was one.
        """
        if overflow is not None and overflow.is_cuda:
            answer = torch.empty_like(overflow, device="cpu", pin_memory=True)
            answer.copy_(overflow, non_blocking=True)
            event = torch.Event(overflow.device)
            event.record(torch.accelerator.current_stream(overflow.device))
            self._pending.append((answer, event))
        elif overflow is None or not overflow.item():
            self._num_steps += 1

    @property
    def latest(self) -> int:
        """Real steps so far; those whose answer has not arrived yet are taken to be real."""
        self._read(wait=False)
        return self._num_steps + len(self._pending)

    @property
    def exact(self) -> int:
        """Real steps so far; waits for the answers."""
        self._read(wait=True)
        return self._num_steps

    def _read(self, *, wait: bool) -> None:
        while self._pending:
            answer, event = self._pending[0]
            if wait:
                event.synchronize()
            elif not event.query():
                return
            self._pending.popleft()
            self._num_steps += not answer.item()
