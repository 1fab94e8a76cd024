#!/usr/bin/env bash
# Do what the README promises with a table of clips, as a new user would: explore, train, transfer, sweep, compare,
# predict, export and so on, in an empty folder, with an installed wheel. Prints the duration of each step.
#
#   scripts/newcomer.sh TABLE COLUMNS [FOLDER] [OVERRIDE...]
#
# TABLE     table of clips with a column path
# COLUMNS   its target columns, separated by commas; the first one must be a label
# FOLDER    the same clips in one folder per class, or - without such a folder
# OVERRIDE  overrides of all trainings, such as trainer.max_epochs=1
#
# Environment variables: WORK, the empty folder to work in (default: a temporary folder); PYTHON, an interpreter with
# etude (default: the wheel of this checkout is installed into WORK/.venv, several GB); EXTRA, overrides of the data,
# such as "data.source.missing=[unknown]".
# Exit status: 1 if a step failed. WORK/steps/ has the output of each step, and WORK/steps.tsv their durations.
set -u

if [ $# -lt 2 ] || [ ! -f "$1" ]; then
    sed -n '2,/^set -u/{/^#/s/^# \{0,1\}//p}' "$0" >&2
    exit 2
fi
root=$(cd "$(dirname "$0")/.." && pwd)
table=$(realpath "$1") columns=$2 first=${2%%,*}
folder=${3:--}
[ "$folder" = - ] || folder=$(realpath "$folder")
shift $(($# < 3 ? $# : 3))
training=("$@")
work=${WORK:-$(mktemp -d)}
mkdir -p "$work/steps" && cd "$work" || exit 2
data=(data=table "data.source.table=$table" ${EXTRA:-})
failed=0

# step NAME COMMAND...: run a command, store its output, and print its duration and its result
step() {
    local name=$1 start status
    shift
    start=$(date +%s)
    "$@" >"steps/$name.log" 2>&1 </dev/null
    status=$?
    printf '%s\t%d s\tstatus %d\n' "$name" $(($(date +%s) - start)) $status | tee -a steps.tsv
    if [ $status -ne 0 ]; then
        failed=$((failed + 1))
        tail -n 5 "steps/$name.log" | sed 's/^/    /'
    fi
}

# the last run or sweep of a name
last() {
    local found=(outputs/*"_$1"_*/)
    ls -td "${found[@]}" | head -n 1 | sed 's,/$,,'
}

install() {
    python3 -m venv .venv && .venv/bin/pip install --quiet build &&
        .venv/bin/python -m build --outdir dist "$root" &&
        .venv/bin/pip install --quiet "$(echo dist/*.whl)[export,inspect,page]"
}

# the interactive page, started, read and stopped
page() {
    local demo address status=1
    "$PYTHON" -m etude demo "$1" --no-browser >page.log 2>&1 &
    demo=$!
    while [ $status -ne 0 ] && kill -0 $demo 2>/dev/null; do
        sleep 1
        address=$(grep -o 'http://127.0.0.1:[0-9]*' page.log | head -n 1)
        [ -n "$address" ] && "$PYTHON" -c 'import sys, urllib.request as u; u.urlopen(sys.argv[1]).read()' "$address" &&
            status=0
    done
    kill $demo
    wait $demo
    cat page.log
    return $status
}

# a script without `if __name__ == "__main__"`
script() {
    cat >script.py <<'PYTHON'
import json
import sys

import etude

first, song, *overrides = json.loads(sys.argv[1])
run = etude.run([*overrides, "backbone=lstm", f"task={first}", "data.workers=2", "name=script"])
print(run.scores().to_string(), run.predict(song).windows)
print(etude.embed(song, backbone="musicnn").values.shape)
PYTHON
    "$PYTHON" script.py "$("$PYTHON" -c 'import json, sys; print(json.dumps(sys.argv[1:]))' "$@")"
}

onnx() {
    cat >onnx.py <<'PYTHON'
import json
import sys

import librosa
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession(sys.argv[1] + "/export/model.onnx")
metadata = json.loads(session.get_modelmeta().custom_metadata_map["etude"])
audio = librosa.load(sys.argv[2], sr=metadata["rate"], duration=metadata["window"])[0].astype(np.float32)
names = [output.name for output in session.get_outputs()]
print(dict(zip(names, session.run(names, {"waveform": audio[None], "lengths": np.array([len(audio)])}))))
PYTHON
    "$PYTHON" onnx.py "$@"
}

if [ -z "${PYTHON:-}" ]; then
    PYTHON=$work/.venv/bin/python
    step install install
fi
etude() { "$PYTHON" -m etude "$@"; }
song=$("$PYTHON" - "$table" <<'PYTHON'
import pathlib
import sys

import pandas as pd

table = pathlib.Path(sys.argv[1])
print(table.parent / pd.read_csv(table)["path"][0])
PYTHON
)

step version etude --version
step explore etude explore "${data[@]}"
if [ "$folder" != - ]; then
    step explore-folder etude explore data=folder "data.source.path=$folder"
    step train-folder etude train data=folder "data.source.path=$folder" backbone=lstm "${training[@]}"
fi
step train etude train "${data[@]}" "task=$first" name=first "${training[@]}"
run=$(last first)
step targets etude train "${data[@]}" "task=[$columns]" name=targets "${training[@]}"
step auto etude train "${data[@]}" task=auto debug=fast
step transfer etude train "${data[@]}" "task=[$columns]" transfer=full "transfer.init_from=$run" "${training[@]}"
step sweep etude train -m "${data[@]}" "task=$first" backbone=lstm,cnn "${training[@]}"
step compare etude compare "$(last sweep)"
step folds etude train -m sweep=folds "${data[@]}" "task=$first" experiment=small
folds=$(last sweep)
step encoders etude train -m sweep=encoders "${data[@]}" "task=$first" readout=default,all_mean_max
step ensemble etude ensemble "$folds"
step small etude train "${data[@]}" "task=$first" experiment=small name=small
small=$(last small)
step small-ensemble etude train -m experiment=small_ensemble "${data[@]}" "task=$first"
step report etude report "$small"
step maps etude maps "$small" --methods pca,umap
step inspect etude inspect "$run"
step predict etude predict "$small" "$song" --out predicted
step predict-ensemble etude predict "$folds/ensemble" "$song" --out predicted-ensemble
step tags etude predict --backbone musicnn "$song" --out tags
step embed etude embed --backbone musicnn "$(dirname "$song")" --out embeddings.npz
step embed-run etude embed "$small" "$song" --out embeddings.parquet
step export etude export "$small"
step onnx onnx "$small" "$song"
step demo page "$small"
step script script "$first" "$song" "${data[@]}" "${training[@]}"
echo "$failed of $(wc -l <steps.tsv) steps failed; $work/steps has their output"
[ $failed -eq 0 ]
