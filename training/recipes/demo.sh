#!/usr/bin/env bash
# Trains, builds and measures the embedded bundle.
#
#   demo.sh RUN              the embedded bundle itself, into edge/demo/bundle
#   demo.sh RUN SOURCE       the same without the images of SOURCE, judged on them: RUN/bundle
#
# RUN is the folder of the run; running it again goes on where it was broken off. Data: $CYTOLOGIA_DATA with
# smears/ and pool/, base weights: $CYTOLOGIA_WEIGHTS.
set -euo pipefail
run=$1
left_out=${2:-}
cd "$(dirname "$0")/../.."
data=$CYTOLOGIA_DATA
weights=$CYTOLOGIA_WEIGHTS
smears=$data/smears
bundle=edge/demo/bundle
[ -z "$left_out" ] || bundle=$run/bundle

# Classes of cells that their collections leave unnamed, as CSV files beside the images.
by_eye=$run/classes-by-eye
mkdir -p "$by_eye"
cp training/recipes/classes-by-eye/*.csv "$by_eye"
ln -sfn "$(realpath "$smears/images")" "$by_eye/images"
ln -sf "$(realpath "$smears/provenance.csv")" "$by_eye"

common=(
    --csv "$smears/train.csv" --csv "$data/pool/train.csv"
    --validation-csv "$smears/val.csv"
    ${left_out:+--exclude-source "$left_out"}
    --data-note "Blood cell images of Hospital Clinic Barcelona (Acevedo et al. 2020, Data in Brief 30, Mendeley Data 10.17632/snkd93bnjr.1), CC BY 4.0, with boxes of TXL-PBC (MIT) and of a regressor."
    --data-note "BCCD (MIT); blood-cell-detection-dataset by draaslan (MIT); Raabin-WBC crops as annotated in TXL-PBC (MIT)."
    --data-note "Samples of AML-Cytomorphology_LMU (Matek et al. 2019, TCIA, CC BY 3.0) and of Sidhom et al. 2021 (figshare, CC BY 4.0)."
    --data-note "Smears drawn by this project."
    --resume
)
named=(
    --csv "$by_eye/train.csv" --validation-csv "$by_eye/val.csv"
    --data-note "Classes that this project gave by eye, without a hematologist, to cells of draaslan and Raabin-WBC."
    --model tf_efficientnet_lite0 --crop-size 192
)
# On two cores one thread for each of two trainings side by side is faster than two threads for each in turn.
export OMP_NUM_THREADS=1
python -m training.detector "${common[@]}" \
    --csv "$smears/detection_only_train.csv" --validation-csv "$smears/detection_only_val.csv" \
    --pretrained "$weights/yolox_nano_fused_torch.pth" --variation strong \
    --epochs 16 --tiles-per-epoch 1500 --drawn 300 --out "$run/detector" &
detector=$!
trap 'kill $detector 2>/dev/null || true' EXIT
python -m training.classifier "${common[@]}" "${named[@]}" \
    --pretrained "$weights/tf_efficientnet_lite0_timm.pth" --variation extreme --epochs 14 --drawn 600 \
    --out "$run/classifier-extreme"
wait $detector
# Blur and cells that a border cuts off: docs/decisions/stations-beyond-the-training-images.md.
last_epoch() { # seed, variation, learning rate
    OMP_NUM_THREADS=2 python -m training.classifier "${common[@]}" "${named[@]}" \
        --pretrained "$run/classifier-extreme/best.pt" --seed "$1" --variation "$2" --learning-rate "$3" \
        --epochs 1 --ema-decay 0.99 --drawn 300 --workers 1 --out "$run/classifier-$1"
}
last_epoch 0 widest 0.0002
last_epoch 1 widest 0.0005
last_epoch 2 extreme 0.0002
last_epoch 3 widest 0.0002
python -m training.soup "$run"/classifier-[0-3]/best.pt --out "$run/classifier-mean"

# A field, scaled to one tile, has cells too small to be found (docs/decisions/fields-in-windows.md).
cat > "$run/bundle.toml" <<END
[[detector]]
checkpoint = "detector/best.pt"
windows = { size_px = 1152, overlap_px = 256 }

[[classifier]]
checkpoint = "classifier-mean/best.pt"
END
python build_engines/build.py --recipe "$run/bundle.toml" \
    --images "$smears/images" --name demo --threshold 0.3 --out "$bundle"

python -m training.likeness --bundle "$bundle" --same-source pool=pbc ${left_out:+--exclude-source "$left_out"} \
    --csv "$smears/train.csv" --csv "$smears/detection_only_train.csv" --csv "$data/pool/train.csv"

evaluate() { # name in the card, folder, options
    python -m training.evaluate --bundle "$bundle" --out "$run/$2" "${@:3}"
    python -m build_engines.model_card "$bundle" --evaluation "$run/$2/report.json" --name "$1"
}
evaluate "validation images" validation --csv "$smears/val.csv" --csv "$smears/detection_only_val.csv"
if [ -n "$left_out" ]; then
    every=(--csv "$smears/train.csv" --csv "$smears/val.csv")
    every+=(--csv "$smears/detection_only_train.csv" --csv "$smears/detection_only_val.csv")
    evaluate "all images of $left_out, none of which it was trained on" held-out "${every[@]}" --source "$left_out"
    if [[ "$left_out" == raabin_txl || "$left_out" == bcd ]]; then # elsewhere without classes
        evaluate "the cells of $left_out that were named by eye" held-out-by-eye \
            --csv "$by_eye/train.csv" --csv "$by_eye/val.csv" --source "$left_out"
    fi
fi
