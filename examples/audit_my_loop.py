"""Does the schedule happen that I meant? First before the training, then in the loop itself.

python examples/audit_my_loop.py
"""

import torch
from sklearn.datasets import load_digits
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR
from torch.utils.data import DataLoader, TensorDataset

from lrtune import audit, watch

EPOCHS, WARMUP_STEPS = 10, 50

pixels, labels = load_digits(return_X_y=True)
data = TensorDataset(torch.tensor(pixels / 16, dtype=torch.float32), torch.tensor(labels))
loader = DataLoader(data, batch_size=64, shuffle=True)
model = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10))

optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
warmup = LinearLR(optimizer, start_factor=0.02, total_iters=WARMUP_STEPS)
cosine = CosineAnnealingLR(optimizer, T_max=EPOCHS * len(loader) - WARMUP_STEPS)
scheduler = SequentialLR(optimizer, [warmup, cosine], milestones=[WARMUP_STEPS])

print("Before the training, were it called once an epoch:\n")
print(audit(optimizer, scheduler, steps_per_epoch=len(loader), epochs=EPOCHS, advanced="epoch"))

with watch(optimizer, scheduler=scheduler, steps_per_epoch=len(loader), epochs=EPOCHS) as seen:
    for _ in range(EPOCHS):
        for images, targets in loader:
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(images), targets).backward()
            optimizer.step()
            scheduler.step()

print("\nIn the loop, where it is called once a step:\n")
print(seen.audit())
