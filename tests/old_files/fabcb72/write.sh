#!/bin/bash
# Writes every file of this folder with the code of commit fabcb72: `retort` must be that commit's.
set -euo pipefail
cd "$(dirname "$0")"
export OMP_NUM_THREADS=1
images="--data nets:images"

retort capture nets:cnn $images --out cnn
retort train cnn $images --epochs 2 --batch-size 16 --learning-rate 0.01 --out trained
retort prune trained $images --macs 0.6 --align 2 --min-channels 2 --set recover=null --out pruned
retort sparsify trained $images --pattern 2:4 --set recover=null --out sparse
retort quantize pruned $images --no-timed --first-layer int8 --last-layer int8 --correction none --out int8
retort capture nets:lstm $images --out lstm
retort quantize lstm $images --no-timed --correction none --out lstm-int8
retort capture nets:text --data nets:tokens --out text
retort quantize text --data nets:tokens --no-timed --form dynamic --correction none --out text-int8

retort export pruned $images --out pruned-onnx
retort export int8 $images --out int8-onnx
retort pack int8-onnx --name digits --batch-size 4 --out archive
retort bench pruned-onnx int8-onnx $images --batch-sizes 2 --blocks 6 --budget-s 2 --out result.json
for recipe in *.yaml; do retort check "$recipe"; done
retort run small.yaml
mv runs/small run && rmdir runs

python - <<'PYTHON' # what each model answers to the first samples
from pathlib import Path

import nets
import numpy as np

from retort.core.artifact import load_artifact
from retort.core.session import open_session

images = "cnn trained pruned sparse int8 lstm lstm-int8 pruned-onnx int8-onnx".split()
found = {}
for source, models in {"images": images, "tokens": ["text", "text-int8"]}.items():
    found[source] = getattr(nets, source)()[0][:7]
    for name in models:
        session = open_session(load_artifact(Path(name)).main)
        (spec,) = session.signature.inputs
        (found[name],) = session.run({spec.name: found[source]}).values()
        session.close()
np.savez_compressed("outputs.npz", **found)
PYTHON
rm -rf __pycache__ .scratch
