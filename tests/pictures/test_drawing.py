"""PNG files and their records."""

from PIL import Image

from auffusion_cli.pictures.drawing import read_png_record, save_png


def test_a_picture_carries_a_record_and_others_have_none(tmp_path):
    path = tmp_path / "a.png"
    save_png(Image.new("RGB", (2, 2)), path, record='{"of": "Ünïcode 🐕"}')
    assert read_png_record(path) == '{"of": "Ünïcode 🐕"}'
    save_png(Image.new("RGB", (2, 2)), path)
    assert read_png_record(path) is None
    path.write_bytes(b"\x89PNG\r\n\x1a\n cut short")
    assert read_png_record(path) is None and read_png_record(tmp_path / "none.png") is None
