"""A plain training loop that lrtune searches as it is: digits, SGD and a cosine.

The script knows nothing of lrtune. It prints the validation loss after each epoch.

    python examples/commands/plain.py
    lrtune search --metric val_loss:min --budget 12 -- python examples/commands/plain.py
"""

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch.nn import functional

EPOCHS, BATCH = 10, 64

torch.manual_seed(0)
digits = load_digits()
images = torch.tensor(digits.data / 16, dtype=torch.float32)
labels = torch.tensor(digits.target)
order = torch.from_numpy(np.random.default_rng(0).permutation(len(images)))
train, val = order[:1347], order[1347:]

model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=EPOCHS)

for epoch in range(EPOCHS):
    model.train()
    for batch in train[torch.randperm(len(train))].split(BATCH):
        loss = functional.cross_entropy(model(images[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    scheduler.step()
    model.eval()
    with torch.no_grad():
        logits = model(images[val])
    val_loss = functional.cross_entropy(logits, labels[val])
    accuracy = (logits.argmax(1) == labels[val]).float().mean()
    print(f"epoch {epoch}: val_loss {val_loss:.4f}, accuracy {accuracy:.4f}")
