"""Sounds made here: General MIDI instruments and effects (fluidsynth), speech (espeak-ng).

They fill kinds that recordings leave thin (telephone, helicopter, seashore) and give the model a
few instruments and voices, in a number of variations that no package has.
"""

from __future__ import annotations

import random
import struct
import subprocess
from pathlib import Path

PACKAGE = "rendered"  # the name these sounds go by among the packages
SOUNDFONT = "fluid-soundfont-gm"
VARIATIONS = 12

EFFECTS = {
    "seashore": 122,
    "bird_tweet": 123,
    "telephone": 124,
    "helicopter": 125,
    "applause": 126,
    "gunshot": 127,
}
INSTRUMENTS = {
    "piano": 0,
    "music_box": 10,
    "church_organ": 19,
    "accordion": 21,
    "acoustic_guitar": 25,
    "distorted_guitar": 30,
    "violin": 40,
    "harp": 46,
    "choir": 52,
    "trumpet": 56,
    "saxophone": 65,
    "flute": 73,
    "sitar": 104,
    "bagpipe": 109,
    "steel_drum": 114,
}
SENTENCES = [
    "Good morning, how are you today?",
    "The train to the north leaves at seven.",
    "I think it is going to rain this afternoon.",
    "Please close the door behind you.",
    "We walked along the river until dark.",
    "One, two, three, four, five.",
    "Could you tell me the way to the station?",
    "Nobody knows what happened that night.",
    "The dinner is ready, come inside.",
    "This is the news at nine o'clock.",
    "My brother has bought a new car.",
    "Thank you very much for your help.",
    "Where did you put the keys?",
    "It was the best summer of my life.",
]
VOICES = {
    "man": ["en-gb+m1", "en-us+m3", "en-gb+m7", "en-us"],
    "woman": ["en-gb+f1", "en-us+f2", "en-gb+f4", "en-us+f5"],
    "child": ["en-gb+f3", "en-us+f4"],
}
PITCHES = {"man": (30, 50), "woman": (50, 70), "child": (85, 99)}


def variable(value: int) -> bytes:
    """A MIDI variable-length number."""
    out = bytes([value & 0x7F])
    while value := value >> 7:
        out = bytes([value & 0x7F | 0x80]) + out
    return out


def midi(program: int, notes: list[tuple[float, float, int, int]]) -> bytes:
    """A MIDI file of (start, length, key, velocity) notes; times in seconds."""
    ticks = 480  # a beat, and the default tempo is two beats a second
    events = [(0.0, bytes([0xC0, program]))]
    for start, length, key, velocity in notes:
        events.append((start, bytes([0x90, key, velocity])))
        events.append((start + length, bytes([0x80, key, 0])))
    track, now = b"", 0
    for time, message in sorted(events, key=lambda event: event[0]):
        tick = int(time * 2 * ticks)
        track += variable(tick - now) + message
        now = tick
    track += variable(ticks // 4) + b"\xff\x2f\x00"
    header = b"MThd" + struct.pack(">IHHH", 6, 0, 1, ticks)
    return header + b"MTrk" + struct.pack(">I", len(track)) + track


def melody(rng: random.Random) -> list[tuple[float, float, int, int]]:
    """A few notes: one long tone, a chord, or a short walk through a scale."""
    base = rng.randrange(50, 72)
    shape = rng.choice(["tone", "chord", "walk", "walk"])
    if shape == "tone":
        return [(0.0, rng.uniform(1.0, 2.5), base, 100)]
    if shape == "chord":
        third = rng.choice([3, 4])
        return [(0.0, rng.uniform(1.5, 3.0), base + step, 95) for step in (0, third, 7)]
    scale, step, place, start = [0, 2, 4, 5, 7, 9, 11, 12], rng.choice([0.25, 0.35, 0.5]), 0, 0.0
    notes = []
    for _ in range(rng.randrange(5, 10)):
        notes.append((start, step, base + scale[place], rng.randrange(80, 110)))
        place = min(7, max(0, place + rng.choice([-2, -1, 1, 1, 2])))
        start += step
    return notes


def effect(rng: random.Random, name: str) -> list[tuple[float, float, int, int]]:
    if name == "gunshot":
        gaps = [0.0] + [rng.uniform(0.2, 0.9) for _ in range(rng.randrange(0, 4))]
        key = rng.randrange(54, 68)
        return [(sum(gaps[: i + 1]), 1.0, key, rng.randrange(90, 127)) for i in range(len(gaps))]
    return [(0.0, rng.uniform(3.0, 6.0), rng.randrange(54, 68), 110)]


def play(target: Path, program: int, notes: list, soundfont: Path) -> None:
    score = target.with_suffix(".mid")
    score.write_bytes(midi(program, notes))
    options = ["-ni", "-q", "-g", "0.5", "-r", "32000"]
    command = ["fluidsynth", *options, "-F", target, soundfont, score]
    subprocess.run(command, check=True, capture_output=True)
    score.unlink()


def speak(target: Path, voice: str, pitch: int, speed: int, sentence: str) -> None:
    command = ["espeak-ng", "-v", voice, "-p", str(pitch), "-s", str(speed), "-w", target, sentence]
    subprocess.run(command, check=True, capture_output=True)


def render(folder: Path, cache: Path) -> None:
    """Fill ``folder``; one that exists is complete."""
    if folder.exists():
        return
    print("rendering instruments, effects and voices", flush=True)
    part = folder.with_name(folder.name + ".part")
    part.mkdir(parents=True, exist_ok=True)
    soundfont = soundfont_file(cache)
    for name, program in {**EFFECTS, **INSTRUMENTS}.items():
        rng = random.Random(name)
        for i in range(VARIATIONS):
            notes = effect(rng, name) if name in EFFECTS else melody(rng)
            play(part / f"{name}_{i:02d}.wav", program, notes, soundfont)
    for name, voices in VOICES.items():
        rng = random.Random(name)
        for i, sentence in enumerate(SENTENCES * 2):
            pitch, speed = rng.randint(*PITCHES[name]), rng.randint(130, 185)
            speak(part / f"{name}_{i:02d}.wav", rng.choice(voices), pitch, speed, sentence)
    part.rename(folder)


def soundfont_file(cache: Path) -> Path:
    """FluidR3_GM.sf2, taken out of its package once."""
    target = cache / "FluidR3_GM.sf2"
    if not target.exists():
        deb = next((cache / "debs").glob(f"{SOUNDFONT}_*.deb"))
        place = cache / "soundfont"
        subprocess.run(["dpkg-deb", "-x", deb, place], check=True)
        next(place.rglob("FluidR3_GM.sf2")).rename(target)
    return target
