"""Import names: which library they are of, and what does the job of one that is not there.

Facts for hints. A line here is all that it takes to know one more.
"""

import difflib
from collections.abc import Iterator, Mapping

DISTRIBUTIONS = {
    "Crypto": "pycryptodome",
    "PIL": "pillow",
    "bs4": "beautifulsoup4",
    "cv2": "opencv-python",
    "dateutil": "python-dateutil",
    "docx": "python-docx",
    "dotenv": "python-dotenv",
    "fitz": "PyMuPDF",
    "mpl_toolkits": "matplotlib",
    "pptx": "python-pptx",
    "pylab": "matplotlib",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "yaml": "PyYAML",
}
"""Import name to distribution, where they differ."""

ALIASES = {
    "np": "import numpy as np",
    "pd": "import pandas as pd",
    "plt": "import matplotlib.pyplot as plt",
    "sns": "import seaborn as sns",
    "px": "import plotly.express as px",
    "go": "import plotly.graph_objects as go",
    "sp": "import scipy as sp",
    "stats": "from scipy import stats",
    "sm": "import statsmodels.api as sm",
    "smf": "import statsmodels.formula.api as smf",
    "nx": "import networkx as nx",
    "mpl": "import matplotlib as mpl",
    "dt": "import datetime as dt",
    "Path": "from pathlib import Path",
    "Counter": "from collections import Counter",
    "defaultdict": "from collections import defaultdict",
    "timedelta": "from datetime import timedelta",
    "datetime": "from datetime import datetime",
    "StringIO": "from io import StringIO",
    "BytesIO": "from io import BytesIO",
    "Image": "from PIL import Image",
    "BeautifulSoup": "from bs4 import BeautifulSoup",
    "train_test_split": "from sklearn.model_selection import train_test_split",
    "LinearRegression": "from sklearn.linear_model import LinearRegression",
    "LogisticRegression": "from sklearn.linear_model import LogisticRegression",
    "RandomForestClassifier": "from sklearn.ensemble import RandomForestClassifier",
    "StandardScaler": "from sklearn.preprocessing import StandardScaler",
    "accuracy_score": "from sklearn.metrics import accuracy_score",
}
"""Names that everybody imports the same way."""

_CHARTS = ("matplotlib, seaborn or plotly", "matplotlib")
_TABLES = ("pandas", "pandas")
_LEARNING = ("sklearn (for networks sklearn.neural_network)", "scikit-learn")
_BOOSTING = ("sklearn.ensemble.HistGradientBoostingClassifier or …Regressor", "scikit-learn")
_IMAGES = ("PIL and scipy.ndimage", "pillow")
_WORDS = ("re, collections.Counter and sklearn.feature_extraction.text", "scikit-learn")
_SERIES = ("statsmodels.tsa (ARIMA, ExponentialSmoothing)", "statsmodels")
_PDF_IN = ("pypdf for text, pdfplumber for text and tables", "pdfplumber")
_PDF_OUT = ("reportlab", "reportlab")
_MAPS = ("plotly's maps, or matplotlib with the coordinates", "plotly")
_SQL = ("sqlite3 with a database in a file, or pandas", "")
_JSON = ("json", "")
_SEARCH = ("scipy.optimize (linprog, milp, minimize)", "scipy")
NETWORK = frozenset(
    (
        *("aiohttp", "httpx", "requests", "urllib3", "paramiko", "playwright", "scrapy", "selenium", "wget"),
        *("anthropic", "boto3", "gdown", "google", "kaggle", "openai", "tweepy", "wikipedia"),
        *("pandas_datareader", "yfinance", "psycopg2", "pymongo", "pymysql", "redis"),
    )
)
"""Imports that are of no use without a network."""

SUBSTITUTES: Mapping[str, tuple[str, str]] = {
    **dict.fromkeys(
        ("bokeh", "altair", "plotnine", "pygal", "holoviews", "hvplot", "mplfinance", "pyecharts"), _CHARTS
    ),
    **dict.fromkeys(("polars", "dask", "modin", "vaex", "cudf", "pyspark", "datatable", "ibis"), _TABLES),
    **dict.fromkeys(("torch", "tensorflow", "keras", "jax", "flax", "transformers", "fastai"), _LEARNING),
    **dict.fromkeys(("xgboost", "lightgbm", "catboost"), _BOOSTING),
    **dict.fromkeys(("cv2", "skimage", "imageio"), _IMAGES),
    **dict.fromkeys(("nltk", "spacy", "gensim", "textblob", "wordcloud", "vaderSentiment"), _WORDS),
    **dict.fromkeys(("prophet", "pmdarima", "fbprophet", "darts", "sktime"), _SERIES),
    **dict.fromkeys(("fitz", "pymupdf", "tabula", "camelot", "pdf2image", "pdftotext"), _PDF_IN),
    **dict.fromkeys(("fpdf", "weasyprint", "pdfkit"), _PDF_OUT),
    **dict.fromkeys(("geopandas", "folium", "cartopy", "shapely", "basemap"), _MAPS),
    **dict.fromkeys(("duckdb", "sqlalchemy", "pandasql", "mysql", "pyodbc"), _SQL),
    **dict.fromkeys(("ujson", "orjson", "simplejson"), _JSON),
    **dict.fromkeys(("cvxpy", "pulp", "ortools", "pyomo"), _SEARCH),
    "faker": ("random", ""),
    "hdbscan": ("sklearn.cluster.HDBSCAN", "scikit-learn"),
    "imblearn": ("class_weight= of sklearn's estimators, or resampling with pandas", "scikit-learn"),
    "missingno": ("df.isna().sum()", "pandas"),
    "numba": ("numpy's vectorised functions", "numpy"),
    "pandas_profiling": ("df.describe() and df.isna().sum()", "pandas"),
    "pingouin": ("scipy.stats and statsmodels", "scipy"),
    "shap": ("sklearn.inspection.permutation_importance", "scikit-learn"),
    "sweetviz": ("df.describe() and df.isna().sum()", "pandas"),
    "tkinter": ("matplotlib; there is no screen", "matplotlib"),
    "toml": ("tomllib", ""),
    "yaml": ("json, or split the lines at ':',", ""),
    "umap": ("sklearn.manifold.TSNE", "scikit-learn"),
    "ydata_profiling": ("df.describe() and df.isna().sum()", "pandas"),
    # Python 2, and what Python has dropped since.
    "ConfigParser": ("configparser", ""),
    "Queue": ("queue", ""),
    "StringIO": ("io.StringIO", ""),
    "cPickle": ("pickle", ""),
    "distutils": ("packaging.version, shutil or sysconfig", ""),
    "imp": ("importlib", ""),
    "urllib2": ("urllib, but there is no network", ""),
}
"""Import name to what does its job here, and the distribution which that needs; empty for the standard library."""

OPTIONAL = {
    "fastparquet": "engine='pyarrow'",
    "html5lib": "flavor='lxml'",
    "odf": "an .xlsx file; openpyxl is there",
    "odfpy": "an .xlsx file; openpyxl is there",
    "pyxlsb": "an .xlsx file; openpyxl is there",
    "sqlalchemy": "a connection of sqlite3.connect(path)",
    "tables": "to_parquet and read_parquet",
    "pytables": "to_parquet and read_parquet",
    "xlwt": "an .xlsx file; openpyxl is there",
}
"""What pandas asks for only in some cases, and how to do without."""


def distribution_of(name: str) -> str:
    """The distribution that an import name is of."""
    return DISTRIBUTIONS.get(name, name)


def installed(name: str, libraries: Mapping[str, str]) -> bool:
    """Whether what an import name is of is among the libraries."""
    return _normal(distribution_of(name)) in {_normal(each) for each in libraries}


def import_names(libraries: Mapping[str, str]) -> Iterator[str]:
    """How the libraries are imported."""
    known = {
        _normal(distribution): name for name, distribution in DISTRIBUTIONS.items() if distribution != "matplotlib"
    }
    for each in libraries:
        yield known.get(_normal(each), each.replace("-", "_"))


def nearest(name: str, libraries: Mapping[str, str]) -> str | None:
    """The library that was meant by a name with a slip in it."""
    by_name = {each.lower(): each for each in import_names(libraries)}
    for each, imported in ((d.lower(), i) for i, d in DISTRIBUTIONS.items() if installed(i, libraries)):
        by_name.setdefault(each, imported)
        by_name.setdefault(each.replace("-", "_"), imported)
    close = difflib.get_close_matches(name[:80].lower(), by_name, 1, 0.8)
    return by_name[close[0]] if close else None


def _normal(name: str) -> str:
    return name.lower().replace("_", "-")
