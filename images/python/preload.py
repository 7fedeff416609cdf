"""What a zygote imports before it forks: the first one little, because it is waited for, its heir all of this.

The measure of a library: how often programs want it, times what its import costs them, against what it adds to every
fork. pandas, matplotlib, scipy, scikit-learn, seaborn and the Excel libraries earn their place; statsmodels, sympy,
plotly and the libraries for documents are imported by the programs that want them. With each library go the parts
that it would import at its first table, plot or PNG.

Run as a script, in a process that must be left with one thread and no descriptor of ours: nothing here computes,
draws or opens a socket. `MPLCONFIGDIR` must name a directory that shows matplotlib the image's list of fonts;
without it matplotlib would search the system, in a thread and with a program of the system's.
"""

import os
import sys
import time
import warnings
from importlib import import_module
from pathlib import Path

COMMON = (
    "pandas",
    "pandas.io.formats.string",
)
"""Hardly a program is without them: imported by who has one sandbox for itself, and time before anybody asks for it."""

LATER = (
    "numpy.fft",
    "numpy.polynomial",
    "numpy.random",
    "pandas.core.methods.to_dict",
    "pandas.core.reshape.reshape",
    "pandas.io.formats.csvs",
    "pandas.io.formats.excel",
    "pandas.io.formats.html",
    "pandas.plotting._matplotlib",
    "pyarrow.pandas_compat",
    "openpyxl",
    "xlsxwriter",
    "tabulate",
    "PIL.Image",
    "PIL.BmpImagePlugin",
    "PIL.GifImagePlugin",
    "PIL.JpegImagePlugin",
    "PIL.PngImagePlugin",
    "PIL.PpmImagePlugin",
    "matplotlib.backends.backend_mixed",
    "matplotlib.backends.backend_svg",
    "matplotlib.dates",
    "matplotlib.ticker",
    "mpl_toolkits.mplot3d",
    "scipy.cluster",
    "scipy.integrate",
    "scipy.interpolate",
    "scipy.linalg",
    "scipy.ndimage",
    "scipy.optimize",
    "scipy.signal",
    "scipy.sparse",
    "scipy.spatial",
    "scipy.special",
    "scipy.stats",
    "sklearn.cluster",
    "sklearn.datasets",
    "sklearn.decomposition",
    "sklearn.ensemble",
    "sklearn.linear_model",
    "sklearn.metrics",
    "sklearn.model_selection",
    "sklearn.neighbors",
    "sklearn.pipeline",
    "sklearn.preprocessing",
    "sklearn.tree",
    "sklearn.utils._pprint",
    "narwhals._interchange.dataframe",
    "narwhals._pandas_like.dataframe",
    "narwhals._pandas_like.namespace",
    "narwhals.stable.v2._namespace",
    "seaborn",
    "joblib.externals.loky.backend.fork_exec",
    "joblib.externals.loky.backend.popen_loky_posix",
    "joblib.externals.loky.backend.synchronize",
    "multiprocessing.pool",
    "multiprocessing.popen_fork",
    "concurrent.futures.process",
    "concurrent.futures.thread",
    "sqlite3",
    "zoneinfo",
)

FONTS = Path(sys.prefix, "share", "fonts")


def quiet_thread_pools() -> None:
    """For the libraries to read as they load: threads that they start now would not survive a fork."""
    os.environ["JE_ARROW_MALLOC_CONF"] = "background_thread:false"
    for pool in ("OMP", "OPENBLAS", "MKL", "BLIS", "NUMEXPR"):
        os.environ[f"{pool}_NUM_THREADS"] = "1"


def draw_every_script() -> None:
    """Make the image's own fonts the last resort for characters that a plot's font lacks.

    Not by `rcParams["font.family"]`: seaborn's themes and matplotlib's styles replace that.
    """
    from matplotlib.font_manager import FontManager, FontPath

    fallbacks = [FontPath(str(path), 0) for path in sorted(FONTS.iterdir())]
    find = FontManager._find_fonts_by_props

    def find_with_fallbacks(self, prop, fontext="ttf", *args, **kwargs):
        found = find(self, prop, fontext, *args, **kwargs)
        return found + [path for path in fallbacks if path not in found] if fontext == "ttf" else found

    FontManager._find_fonts_by_props = find_with_fallbacks


def know_boot_time() -> None:
    """A sandbox's /proc shows processes only; psutil, and joblib through it, stumbles over the missing boot time."""
    import psutil

    psutil.boot_time = psutil._pslinux.boot_time = lambda: time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    psutil._pslinux.BOOT_TIME = psutil.boot_time()


quiet_thread_pools()
# What is changed below, or by the kernel, has to be there before any fork.
for module in ("matplotlib.pyplot", "matplotlib.backends.backend_agg", "matplotlib_inline.backend_inline"):
    import_module(module)
with warnings.catch_warnings():
    # It sees a kernel, misses the widgets, says so, and settles for the text that we want; programs need not hear it.
    warnings.simplefilter("ignore")
    import_module("tqdm.auto")
draw_every_script()
know_boot_time()

# Run a few times before the fork, where all of the above is imported. They must leave nothing behind: no thread, no
# open file, no figure.
REHEARSAL = (
    "import pandas as pd\nframe = pd.DataFrame({'a': [1.5, 2.5], 'b': ['x', 'y']})\nprint(frame)\nframe.describe()",
    "frame.groupby('b').a.sum()",
    """
import matplotlib.pyplot as plt
from matplotlib import font_manager
frame.plot(x="b", y="a", kind="bar", title="title")
plt.plot([1, 2], label="line")
plt.legend()
plt.show()
plt.plot([1, 2])
""",
    "plt.close('all')\nfont_manager._get_font.cache_clear()",
)
