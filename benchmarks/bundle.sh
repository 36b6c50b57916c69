#!/usr/bin/env bash
# Trains and builds the bundle of the usual pair, YOLO11n at 640 px and EfficientNet-B0 at 224 px, that
# `make benchmarks` compares: RUN/bundle, with RUN/yolo11n.pt and RUN/efficientnet_b0.pt, the same weights for
# the other ways.
#
#   bundle.sh RUN
#
# Short trainings from scratch, most of them at half the size: the findings are real, and the figures are no
# measure of what these networks can learn. Running it again goes on where it was broken off. Data:
# $CYTOLOGIA_DATA with smears/.
set -euo pipefail
run=$1
cd "$(dirname "$0")/.."
smears=$CYTOLOGIA_DATA/smears

common=(--validation-csv "$smears/val.csv" --variation mild --resume)
detector=(--csv "$smears/detection_only_train.csv" --batch-size 8)
classifier=(--csv "$smears/train.csv" --model efficientnet_b0 --normalise-by model)
# On two cores one thread for each of two trainings side by side is faster than two threads for each in turn.
export OMP_NUM_THREADS=1
{
    python -m training.detector "${common[@]}" "${detector[@]}" --csv "$smears/train.csv" --drawn 200 \
        --model yolo11n.yaml --tile-size 320 --epochs 2 --out "$run/yolo11n-320"
    # The large cells of train.csv are learnt by now; at full size the small ones of drawn fields are to be.
    python -m training.detector "${common[@]}" "${detector[@]}" --drawn 400 \
        --model "$run/yolo11n-320/weights/best.pt" --tile-size 640 --epochs 5 --out "$run/yolo11n-640"
} &
training=$!
trap 'kill $training 2>/dev/null || true' EXIT
python -m training.classifier "${common[@]}" "${classifier[@]}" --drawn 400 --crop-size 112 --epochs 8 \
    --out "$run/efficientnet_b0-112"
python -m training.classifier "${common[@]}" "${classifier[@]}" --pretrained "$run/efficientnet_b0-112/best.pt" \
    --crop-size 224 --epochs 2 --learning-rate 3e-4 --out "$run/efficientnet_b0-224"
wait $training

cp "$run/yolo11n-640/weights/best.pt" "$run/yolo11n.pt"
cp "$run/yolo11n-640/weights/provenance.json" "$run/provenance.json"
cp "$run/efficientnet_b0-224/best.pt" "$run/efficientnet_b0.pt"
python -m build_engines.build --detector "$run/yolo11n.pt" --classifier "$run/efficientnet_b0.pt" \
    --images "$smears/images" --name yolo11n-efficientnet_b0 --threshold 0.25 --out "$run/bundle"
