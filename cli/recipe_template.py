"""The commented recipe that `retort init` writes."""

STARTER = """\
# A Retort recipe. `retort check {name}.yaml` lists its faults, `retort run {name}.yaml` runs it.
name: {name}
task: classification # or regression
target: cpu # or tensorrt
seed: 0

model:
  source: {model} # package.module:factory, or a .pt2 written by Retort
  # args: {{width: 32}} # keyword arguments for the factory
  # weights: weights.safetensors # or a state dict written by torch.save

data:
  source: {data} # a built-in (digits), package.module:function, a file (.csv, .npz …), a folder (images …)
  # args: {{size: 64}} # keyword arguments for the source
  # validation: 0.15 # shares that are held out if the source has no splits
  # test: 0.2

stages:
  # - train: {{epochs: 20, learning_rate: 0.002}} # if the model is not trained yet
  # - distill: {{student: my_package.my_module:small, epochs: 20}}
  - prune:
      macs: 0.5 # keep half of the multiply-accumulates
      align: 8
      recover: {{epochs: 5}} # `recover: null` cuts without training
  - quantize: {{method: percentile}}
  - export
  - pack: {{name: {name}}}
  # - serve # start TorchServe on loopback, send it the whole test split, stop it
  - bench: {{batch_sizes: [1, 32]}}
  - report

gates: # each must hold with its confidence, or the run stops
  - {{after: prune, accuracy_drop: 0.02, confidence: 0.95}}
  - {{after: quantize, accuracy_drop: 0.02}}
  - {{after: quantize, speedup: 1.5, batch_size: 1}}
"""
