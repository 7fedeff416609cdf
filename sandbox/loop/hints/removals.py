"""What libraries have removed, and what replaced it.

Facts for hints. A line here is all that it takes to know one more; versions are those that removed it. What a library
itself tells of its removals is not here.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

PYTHON = "Python"


@dataclass(frozen=True, slots=True)
class Removal:
    """One name or argument that is gone."""

    library: str
    since: str
    said: re.Pattern[str]
    """What the error says, as `Name: value`."""
    gone: str
    """With groups of that expression."""
    instead: str


def removals(said: str, versions: Mapping[str, str]) -> Iterator[str]:
    """What to do instead of what the error misses. versions: distribution to version, Python among them."""
    known = {name.lower(): version for name, version in versions.items()}
    for each in _TABLE:
        version = known.get(each.library.lower())
        if version is not None and _number(version) >= _number(each.since) and (match := each.said.search(said)):
            yield f"{each.library} {version} has no {match.expand(each.gone)}; use {each.instead}."


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


def _attribute(library: str, since: str, kind: str, names: Mapping[str, str]) -> Iterator[Removal]:
    """Attributes of objects of a class."""
    for name, instead in names.items():
        said = re.compile(rf"'({kind})' object has no attribute '{name}'")
        yield Removal(library, since, said, rf"\1.{name}", instead)


def _member(library: str, since: str, module: str, names: Mapping[str, str]) -> Iterator[Removal]:
    """Names in a module, asked for as attributes or imported."""
    for name, instead in names.items():
        where = re.escape(module)
        said = re.compile(
            rf"module '{where}' has no attribute '{name}'|cannot import name '{name}' from '{where}'|"
            rf"No module named '{where}\.{name}'"
        )
        yield Removal(library, since, said, f"{module}.{name}", instead)


def _argument(library: str, since: str, function: str, names: Mapping[str, str]) -> Iterator[Removal]:
    """Arguments of functions whose names match."""
    for name, instead in names.items():
        said = re.compile(rf"\b(?:{function})\(\) got an unexpected keyword argument '{name}'")
        yield Removal(library, since, said, rf"{name}= in this call", instead)


def _table() -> Iterator[Removal]:
    yield from _attribute("pandas", "2.0", "DataFrame|Series", {"append": "pd.concat([first, second])"})
    yield from _attribute(
        "pandas",
        "2.0",
        "DataFrame|Series",
        {
            "iteritems": "items()",
            "mad": "(x - x.mean()).abs().mean()",
            "lookup": ".loc or indexing with to_numpy()",
            "slice_shift": "shift()",
            "tshift": "shift(freq=…)",
        },
    )
    yield from _attribute("pandas", "2.0", "Series|Index", {"is_monotonic": "is_monotonic_increasing"})
    yield from _attribute(
        "pandas",
        "1.0",
        "DataFrame|Series",
        {
            "ix": ".loc for labels or .iloc for positions",
            "as_matrix": "to_numpy()",
            "get_value": ".at[row, column]",
            "set_value": ".at[row, column] = value",
            "sort": "sort_values(by)",
            "order": "sort_values()",
            "convert_objects": "pd.to_numeric or pd.to_datetime",
            "get_dtype_counts": "dtypes.value_counts()",
            "to_panel": "a DataFrame with a MultiIndex",
            "from_csv": "pd.read_csv",
        },
    )
    yield from _attribute(
        "pandas",
        "3.0",
        "DataFrame|Series",
        {
            "applymap": "map(function)",
            "swapaxes": "T",
            "pad": "ffill()",
            "backfill": "bfill()",
            "first": ".loc with a date, or head()",
            "last": ".loc with a date, or tail()",
            "bool": "item()",
            "ravel": "to_numpy()",
            "view": "astype(…)",
        },
    )
    yield from _attribute(
        "pandas",
        "2.0",
        "DatetimeProperties|DatetimeIndex",
        {"week": "isocalendar().week", "weekofyear": "isocalendar().week"},
    )
    yield from _member(
        "pandas",
        "2.0",
        "pandas",
        {
            "Panel": "a DataFrame with a MultiIndex",
            "datetime": "from datetime import datetime",
            "np": "import numpy as np",
            "Int64Index": "pd.Index",
            "Float64Index": "pd.Index",
            "TimeGrouper": "pd.Grouper",
            "rolling_mean": "series.rolling(n).mean()",
            "scatter_matrix": "pd.plotting.scatter_matrix",
            "plot": "df.plot()",
            "value_counts": "series.value_counts()",
        },
    )
    yield from _member("pandas", "1.0", "pandas.io.json", {"json_normalize": "pd.json_normalize"})
    yield from _argument("pandas", "3.0", r"\w+\.fillna", {"method": "ffill() or bfill()"})
    yield from _argument(
        "pandas",
        "2.0",
        "read_csv|read_table|read_excel",
        {
            "error_bad_lines": "on_bad_lines='skip'",
            "warn_bad_lines": "on_bad_lines='warn'",
            "squeeze": ".squeeze('columns') on the result",
            "prefix": "names=[…]",
            "mangle_dupe_cols": "nothing; it is always so",
        },
    )
    yield from _argument(
        "pandas",
        "3.0",
        "read_csv|read_table|read_excel",
        {
            "date_parser": "date_format='…'",
            "delim_whitespace": r"sep=r'\s+'",
            "infer_datetime_format": "nothing; it is always so",
            "keep_date_col": "the columns themselves",
        },
    )
    yield from _argument("pandas", "2.0", r"\w+\.to_csv", {"line_terminator": "lineterminator="})
    yield from _argument(
        "pandas",
        "2.0",
        r"\w+\.(?:sum|mean|median|min|max|count|std|var|prod)",
        {"level": "groupby(level=…) first"},
    )
    yield from _argument("pandas", "3.0", r"\w+\.groupby", {"axis": "df.T.groupby(…)"})
    yield from _member(
        "numpy",
        "2.0",
        "numpy",
        {"asscalar": "x.item()", "math": "import math", "rank": "np.ndim", "trapz": "np.trapezoid"},
    )
    yield from _member("numpy", "2.4", "numpy", {"in1d": "np.isin", "trapz": "np.trapezoid"})
    yield from _member("matplotlib", "3.9", "matplotlib.cm", {"get_cmap": "matplotlib.colormaps[name]"})
    yield from _argument("matplotlib", "3.7", r"\w+\.gca", {"projection": "fig.add_subplot(projection='3d')"})
    yield from _argument("matplotlib", "3.1", r"\w+\.(?:hist|set)", {"normed": "density="})
    yield Removal(
        "matplotlib",
        "3.8",
        re.compile(r"'seaborn(?:-[a-z]+)?' is not a valid package style"),
        "style of that name",
        "'seaborn-v0_8' or a name of plt.style.available",
    )
    yield Removal(
        "matplotlib", "3.1", re.compile(r"unexpected keyword argument 'normed'"), "hist(normed=…)", "density=True"
    )
    yield from _argument("seaborn", "0.13", r"\w+\.\w+|\w+", {"ci": "errorbar=('ci', 95) or errorbar=None"})
    yield from _member("seaborn", "0.12", "seaborn", {"factorplot": "sns.catplot", "tsplot": "sns.lineplot"})
    yield from _sklearn()
    yield from _others()


def _sklearn() -> Iterator[Removal]:
    yield from _member(
        "scikit-learn",
        "0.24",
        "sklearn",
        {
            "cross_validation": "sklearn.model_selection",
            "grid_search": "sklearn.model_selection",
            "externals": "import joblib",
        },
    )
    yield from _member("scikit-learn", "0.24", "sklearn.externals", {"joblib": "import joblib"})
    yield from _member("scikit-learn", "0.22", "sklearn.preprocessing", {"Imputer": "sklearn.impute.SimpleImputer"})
    yield from _member(
        "scikit-learn",
        "1.2",
        "sklearn.metrics",
        {
            "plot_confusion_matrix": "ConfusionMatrixDisplay.from_estimator",
            "plot_roc_curve": "RocCurveDisplay.from_estimator",
        },
    )
    yield from _argument("scikit-learn", "1.4", r"OneHotEncoder\.__init__", {"sparse": "sparse_output="})
    yield from _argument("scikit-learn", "1.6", "mean_squared_error", {"squared": "root_mean_squared_error"})
    yield from _argument("scikit-learn", "1.2", r"\w+\.__init__", {"normalize": "StandardScaler before it"})
    yield from _argument("scikit-learn", "1.4", r"\w+\.__init__", {"base_estimator": "estimator="})
    yield from _argument("scikit-learn", "1.4", r"\w+\.__init__", {"affinity": "metric="})
    yield from _argument("scikit-learn", "1.7", r"TSNE\.__init__", {"n_iter": "max_iter="})
    yield Removal(
        "scikit-learn",
        "1.2",
        re.compile(r"object has no attribute 'get_feature_names'"),
        "get_feature_names()",
        "get_feature_names_out()",
    )


def _others() -> Iterator[Removal]:
    yield from _member("scipy", "1.12", "scipy.stats", {"binom_test": "stats.binomtest(…).pvalue"})
    yield from _member(
        "scipy",
        "1.14",
        "scipy.integrate",
        {"simps": "simpson", "trapz": "trapezoid", "cumtrapz": "cumulative_trapezoid"},
    )
    yield from _member("scipy", "1.10", "scipy.misc", {"imread": "PIL.Image.open", "imresize": "PIL.Image.resize"})
    yield from _member(
        "scipy",
        "1.13",
        "scipy.signal",
        {"hann": "scipy.signal.windows.hann", "gaussian": "scipy.signal.windows.gaussian"},
    )
    yield from _member("scipy", "1.14", "scipy.interpolate", {"interp2d": "RegularGridInterpolator"})
    yield from _member("pillow", "10.0", "PIL.Image", {"ANTIALIAS": "Image.LANCZOS"})
    yield from _attribute("pillow", "10.0", "ImageDraw", {"textsize": "textbbox((0, 0), text)"})
    yield from _attribute("pillow", "10.0", "FreeTypeFont|ImageFont", {"getsize": "getbbox(text)"})
    yield from _member(
        "networkx",
        "3.0",
        "networkx",
        {
            "from_numpy_matrix": "nx.from_numpy_array",
            "to_numpy_matrix": "nx.to_numpy_array",
            "info": "print(graph)",
            "write_gpickle": "pickle.dump",
            "read_gpickle": "pickle.load",
        },
    )
    yield Removal(
        "statsmodels",
        "0.13",
        re.compile("statsmodels.tsa.arima_model"),
        "arima_model.ARIMA",
        "statsmodels.tsa.arima.model",
    )
    abstract = dict.fromkeys(("Iterable", "Mapping", "Sequence", "Callable", "MutableMapping"), "collections.abc")
    yield from _member(PYTHON, "3.10", "collections", abstract)
    yield from _member(PYTHON, "3.3", "time", {"clock": "time.perf_counter()"})
    yield from _member(PYTHON, "3.9", "fractions", {"gcd": "math.gcd"})
    yield from _member(PYTHON, "3.11", "inspect", {"getargspec": "inspect.getfullargspec"})
    yield from _attribute(
        PYTHON, "3.0", "dict", {"has_key": "key in d", "iteritems": "items()", "itervalues": "values()"}
    )
    two = {
        "xrange": "range",
        "raw_input": "a value in the code",
        "unicode": "str",
        "basestring": "str",
        "long": "int",
        "reduce": "functools.reduce",
        "unichr": "chr",
    }
    for name, instead in two.items():
        yield Removal(PYTHON, "3.0", re.compile(rf"name '{name}' is not defined"), name, instead)


_TABLE = tuple(_table())
