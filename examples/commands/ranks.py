r"""Two processes with DistributedDataParallel that lrtune searches as they are.

Each process of torchrun gets the same LRs. The metric is read from what the first one prints.

    torchrun --nproc-per-node 2 examples/commands/ranks.py
    lrtune search --metric val_loss:min --budget 12 -- \
        torchrun --nproc-per-node 2 examples/commands/ranks.py
"""

import torch
import torch.distributed as dist
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler

EPOCHS = 6


def main() -> None:
    """Trains one rank."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    torch.manual_seed(0)
    made_up = torch.Generator().manual_seed(0)  # the same data on all ranks
    inputs = torch.randn(1798, 64, generator=made_up)
    labels = (inputs @ torch.randn(64, 10, generator=made_up)).argmax(1)
    train, val = slice(None, 1348), slice(1348, None)
    dataset = TensorDataset(inputs[train], labels[train])
    sampler = DistributedSampler(dataset)
    loader = DataLoader(dataset, batch_size=32, sampler=sampler)

    net = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
    model = DistributedDataParallel(net)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.3)
    for epoch in range(EPOCHS):
        sampler.set_epoch(epoch)
        for batch, targets in loader:
            optimizer.zero_grad()
            functional.cross_entropy(model(batch), targets).backward()
            optimizer.step()
        scheduler.step()
        if dist.get_rank() == 0:
            with torch.no_grad():
                val_loss = functional.cross_entropy(net(inputs[val]), labels[val])
            print(f"epoch {epoch} val_loss={val_loss:.4f}", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
