"""An optimizer with step hooks."""

_before, _after = [], []


def register_optimizer_step_pre_hook(hook):
    _before.append(hook)


def register_optimizer_step_post_hook(hook):
    _after.append(hook)


class Optimizer:
    """As torch's; a parameter is a dictionary with a value and a gradient."""

    def __init__(self, params, lr=0.1, weight_decay=0.0):
        groups = params if "params" in params[0] else [{"params": params}]
        self.param_groups = [{"lr": lr, "weight_decay": weight_decay, **group} for group in groups]

    def __setstate__(self, state):
        vars(self).update(state)

    def step(self):
        for hook in _before:
            hook(self, (), {})
        self.update()
        for hook in _after:
            hook(self, (), {})


class SGD(Optimizer):
    def update(self):
        for group in self.param_groups:
            for param in group["params"]:
                decayed = param["grad"] + group["weight_decay"] * param["value"]
                param["value"] -= group["lr"] * decayed
