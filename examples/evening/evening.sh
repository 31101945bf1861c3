#!/bin/sh
# A sound designer's evening: 30 one-shots, 4 loops and 3 edited recordings, all at 48 kHz in stereo.
# sh examples/evening/evening.sh [FOLDER]
set -eu
root=$(dirname "$0")/../..
folder=${1:-evening}
project="--rate 48000 --channels 2"

# Ten sounds of the list, three of each; what is there already is skipped.
auffusion generate --prompts "$root/examples/game/one-shots.csv" -n 3 --seed 100 --peak -1dB $project \
    -o "$folder/one-shots/{name}_{n:02d}.wav"

# Loops of eight seconds, with their loop points; the preset has rate and channels.
auffusion generate --prompts "$root/examples/game/loops.csv" --seed 200 --preset loop \
    -o "$folder/loops/{name}_loop.wav"

# A dog among frogs, the best of four; a longer river; frogs turned into rain.
auffusion inpaint "$root/docs/sounds/frogs.flac" --mask 2-4s --prompt "a dog barking" --best-of 4 \
    --seed 1 $project -o "$folder/edits/frogs-and-dog.wav"
auffusion extend "$root/docs/sounds/river.flac" --by 4s --seed 1 $project \
    -o "$folder/edits/river-longer.wav"
auffusion style-transfer "$root/docs/sounds/frogs.flac" rain --strength 0.6 --seed 1 $project \
    -o "$folder/edits/frogs-as-rain.wav"
