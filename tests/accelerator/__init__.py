"""CUDA's rules without CUDA: a device that computes on the processor, answers as a GPU, and refuses what a GPU refuses.

It is a dispatch mode, which sees every operation, those of backward passes and optimizers too, and replacements of what
torch answers about devices (``memory``, ``operations``, ``device``). The device's memory is a mark on a storage, so the
kernels are the processor's, and a run gives the processor's numbers bit for bit: all methods are held to that. Marked
and unmarked tensors do not mix, but for what CUDA lets mix; where the host would wait for the device is counted, with
the line that waits; pinned memory that is written too early is found.

What else was tried:

* torch's backend for PrivateUse1 in Python: operations can be registered, by a fallback too, but no tensor with strides
  or memory can be made without C++, so there are no views; nor a generator (``torch.Generator(device)``), nor autocast.
  And it answers by another name than the one that the package asks for.
* tensor subclasses: ``nn.Parameter``, ``.data`` and what autograd saves lose the subclass, or it has to be made anew at
  each of them; a mark on the storage is kept by all.
* torch_xla's device on the processor: there is no such package for this torch.

What it does not tell: whether kernels exist and are right, how fast they are, memory, other streams, compiled networks,
communication between devices. Random numbers are the processor's: a GPU draws others from the same seed, by
generators, dropout and initialisation on the device; what the package draws on the host (order, augmentations, latents
of banks) is the same there. Under autocast a few operations keep float32 on one of both and not on the other.
"""
