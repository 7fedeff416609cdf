"""Write matplotlib's list of fonts for the image: `fontcache.py FONTS INSIDE OUT`.

FONTS: the directory that holds the image's own fonts now; INSIDE: its path in a sandbox; OUT: where the list goes.
The list names these fonts and matplotlib's own, nothing of the machine that builds the image. Prints the families
of the image's own fonts, one a line.
"""

import dataclasses
import sys
from pathlib import Path

import matplotlib.font_manager as fonts

# Names by which programs ask for a Chinese, Japanese or Korean font, on whatever system they were written for.
USUAL_NAMES = (
    "SimHei", "SimSun", "Microsoft YaHei", "PingFang SC", "PingFang HK", "Heiti SC", "Heiti TC", "STHeiti",
    "WenQuanYi Zen Hei", "Noto Sans CJK SC", "Noto Sans CJK TC", "Noto Sans CJK JP", "Noto Sans CJK KR",
    "Noto Sans SC", "Noto Sans TC", "Noto Sans JP", "Noto Sans KR", "Source Han Sans SC", "Source Han Sans CN",
    "Hiragino Sans", "Hiragino Sans GB", "Yu Gothic", "Meiryo", "MS Gothic", "IPAGothic", "IPAexGothic", "TakaoPGothic",
    "Malgun Gothic", "NanumGothic", "AppleGothic", "Apple SD Gothic Neo", "Arial Unicode MS",
)  # fmt: skip


def main(directory: str, inside: str, out: str) -> None:
    manager = fonts.FontManager.__new__(fonts.FontManager)
    # Without the search for the system's fonts that its own constructor makes.
    find_system_fonts = fonts.findSystemFonts
    fonts.findSystemFonts = lambda paths=None, fontext="ttf": find_system_fonts(paths, fontext) if paths else []
    manager.__init__()
    shipped = len(manager.ttflist)
    for path in sorted(Path(directory).iterdir()):
        manager.addfont(path)
    own = [dataclasses.replace(e, fname=str(Path(inside, Path(e.fname).name))) for e in manager.ttflist[shipped:]]
    named = {entry.name for entry in manager.ttflist}
    aliases = [dataclasses.replace(own[0], name=name) for name in USUAL_NAMES if name not in named] if own else []
    manager.ttflist[shipped:] = own + aliases
    fonts.json_dump(manager, Path(out, f"fontlist-v{fonts.FontManager.__version__}.json"))
    print("\n".join(dict.fromkeys(entry.name for entry in own)))


main(*sys.argv[1:])
