#!/usr/bin/env bash
# Trains a part of the embedded model on a GPU machine that is there for minutes and has no network.
#
#   recipes/embedded/gpu.sh STAGE PACK RUNS [OPTION ...]
#
# STAGE: codec, vocoder, diffusion, or finetune (goes on from weights/embedded). PACK: what pack.py
# wrote; for codec and vocoder its sounds are enough. Each call ends after nine minutes at most,
# writes what it has under RUNS/back/STAGE/ in pieces of 15 MiB, and goes on where the last one stopped
# as long as RUNS/STAGE is there. OPTIONs go to `auffusion train`:
# `--set loop.max_steps=2 --set loop.mixed_precision=no` tries a stage on a processor.
#
# Put together again: cat back/STAGE/*.tar.* | tar x
set -euo pipefail

stage=${1:?STAGE: codec, vocoder, diffusion or finetune} pack=${2:?PACK: what pack.py wrote}
runs=${3:?RUNS: a folder for the trainings}
shift 3
recipe=$(dirname "$0") run=$runs/$stage

case $stage in
codec) options=(--config "$recipe/autoencoder.yaml") parts=(vae) ;;
vocoder) # with discriminators, which a processor cannot afford
    options=(--config "$recipe/vocoder.yaml" --set vocoder.adversarial_start_step=0
        --set vocoder.discriminator_width=0.25 --set loop.max_steps=40000 --set loop.batch_size=64)
    parts=(vocoder) ;;
diffusion)
    options=(--config "$recipe/diffusion.yaml" --set "diffusion.autoencoder=$runs/codec/vae"
        --set "diffusion.text_encoders=[{path: $pack/text_encoder, max_length: 32,
            name: sentence-transformers/all-MiniLM-L6-v2}]")
    parts=(unet condition_adapter_0) ;;
finetune)
    options=(--config "$recipe/finetune.yaml" --set loop.batch_size=256 --set loop.mixed_precision=bf16
        --set loop.max_steps=4000 --set loop.decay_steps=2000 --set loop.ema_decay=0.999)
    parts=(unet) ;;
*)
    echo "STAGE: $stage is none of codec, vocoder, diffusion, finetune" >&2
    exit 2 ;;
esac

[ ! -d "$run/checkpoints" ] || options+=(--resume)
python -m auffusion_cli train "${options[@]}" --data "$pack/sounds" -o "$run" --max-minutes 8 "$@"

result=$run
if [ "$stage" = diffusion ] || [ "$stage" = finetune ]; then
    result=$run-fp16
    python -m auffusion_cli models convert "$run" -o "$result" --dtype fp16 --overwrite
fi
rm -rf "$runs/back/$stage" && mkdir -p "$runs/back/$stage"
tar c -C "$result" "${parts[@]}" | split -b 15M - "$runs/back/$stage/$stage.tar."
ls -l "$runs/back/$stage"
