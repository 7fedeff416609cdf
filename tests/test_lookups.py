"""What a failed name was looked up in and which names there are, found while the objects live."""

from collections.abc import AsyncIterator

import pytest

from sandbox.engine import Engine
from sandbox.execution import Error, Status
from sandbox.session import Session

TABLES = """
import pandas as pd, numpy as np
df = pd.DataFrame(
    {'Price': [1.5, 2.5, 3.0], 'Region': ['a', 'b', 'a'], 'order date': ['2024-01-01'] * 3, 2020: [1, 2, 3]},
    index=['x', 'y', 'z'],
)
right = pd.DataFrame({'region': ['a'], 'boss': ['q']})
s = pd.Series([1, 2], index=['one', 'two'])
d = {'user': {'name': 'Ann', 'e_mail': 'a@b'}, 'n': 3}
items = [1, 2, 3]
df.to_csv('sales.csv', index=False)
df.to_excel('book.xlsx', sheet_name='Numbers')
class Brush:
    colour = 'red'
    def paint(self, colour, width=1): pass
brush = Brush()
"""
COLUMNS = ("'Price'", "'Region'", "'order date'", "2020")
REGION_FIRST = ("'Region'", "'Price'", "'order date'", "2020")


@pytest.fixture(scope="module")
async def tables(engine: Engine) -> AsyncIterator[Session]:
    """A session with a few objects, which the programs here only fail to use."""
    async with engine.session() as session:
        assert (await session.execute(TABLES)).status is Status.OK
        yield session


async def fail(session: Session, code: str) -> Error:
    execution = await session.execute(code)
    assert execution.error is not None, code
    return execution.error


@pytest.mark.parametrize(
    ("code", "where", "names"),
    [
        ("df['price']", "columns of df: DataFrame", COLUMNS),
        ("df[['price', 'Region']]", "columns of df: DataFrame", COLUMNS),
        ("df.loc[:, 'regoin']", "columns of df: DataFrame", REGION_FIRST),
        ("df.at['x', 'price']", "columns of df: DataFrame", COLUMNS),
        ("df.groupby('region').Price.sum()", "columns of df: DataFrame", REGION_FIRST),
        ("df.groupby('Region')['price'].sum()", "columns of df: DataFrame", COLUMNS),
        ("df.groupby('Region').agg({'price': 'sum'})", "columns of df: DataFrame", COLUMNS),
        ("df.sort_values('price')", "columns of df: DataFrame", COLUMNS),
        ("df.drop(columns=['price'])", "columns of df: DataFrame", COLUMNS),
        ("df.merge(right, on='region')", "columns of df: DataFrame", REGION_FIRST),
        ("right.merge(df, on='region')", "columns of df: DataFrame", REGION_FIRST),
        ("df.pivot_table(index='region', values='Price')", "columns of df: DataFrame", REGION_FIRST),
        ("df.dropna(subset=['price'])", "columns of df: DataFrame", COLUMNS),
        ("df.drop_duplicates(subset=['region'])", "columns of df: DataFrame", REGION_FIRST),
        ("df.query('price > 1')", "columns of df: DataFrame", COLUMNS),
        ("df['2020']", "columns of df: DataFrame", ("2020", "'Price'", "'Region'", "'order date'")),
        ("df.loc['w']", "index of df: DataFrame", ("'x'", "'y'", "'z'")),
        ("s['three']", "index of s: Series", ("'one'", "'two'")),
        ("s[0]", "index of s: Series", ("'one'", "'two'")),
        ("df.apply(lambda row: row['price'], axis=1)", "index of row: Series", COLUMNS),
        ("df.groupby('Region').get_group('c')", "groups of a DataFrameGroupBy", ("'a'", "'b'")),
        ("d['user']['email']", "keys of d['user']: dict", ("'e_mail'", "'name'")),
        ("for each in [d]: each['users']", "keys of each: dict", ("'user'", "'n'")),
    ],
)
async def test_a_missing_key_names_the_keys_nearest_first(
    tables: Session, code: str, where: str, names: tuple[str, ...]
) -> None:
    error = await fail(tables, code)
    assert (error.looked_in, error.available) == (where, names)


@pytest.mark.parametrize(
    ("code", "where", "first"),
    [
        ("df.Prize", "attributes and columns of df: DataFrame", "'Price'"),
        ("df.order_date", "attributes and columns of df: DataFrame", "'order date'"),
        ("df.Region.str.capitalise()", "attributes of a StringMethods", "capitalize"),
        ("brush.color", "attributes of brush: Brush", "colour"),
        ("brush.pain(1)", "attributes of brush: Brush", "paint"),
        ("pd.read_cvs('x')", "module pandas", "read_csv"),
        ("np.float", "module numpy", "float16"),
        ("from pandas import Dataframe", "module pandas", "DataFrame"),
        ("from sklearn.metrics import root_mean_square_error", "module sklearn.metrics", "root_mean_squared_error"),
        ("import scipy.stat", "module scipy", "stats"),
        ("itmes", "names in scope", "items"),
        ("pritn(1)", "names in scope", "print"),
        ("brush.paint(color=1)", "parameters of brush.paint", "colour"),
        ("df.sort_values(by='Price', ascend=True)", "parameters of df.sort_values", "ascending"),
        ("pd.read_csv('sales.csv', usecols=['price'])", "columns of the file", "'Price'"),
        ("pd.read_csv('sales.csv', parse_dates=['date'])", "columns of the file", "'order date'"),
        ("pd.read_excel('book.xlsx', sheet_name='Sheet1')", "sheets of the file", "'Numbers'"),
        ("import seaborn as sns; sns.barplot(data=df, x='region', y='Price')", "columns of df: DataFrame", "'Region'"),
    ],
)
async def test_a_missing_name_is_told_the_nearest(tables: Session, code: str, where: str, first: str) -> None:
    error = await fail(tables, code)
    assert error.looked_in == where
    assert error.available[0] == first


@pytest.mark.parametrize(
    ("code", "where"),
    [
        ("items[3]", "items: list of length 3"),
        ("df.iloc[7]", "df: DataFrame of 3 rows and 4 columns"),
        ("np_array = np.zeros((2, 3)); np_array[4]", "np_array: array of shape (2, 3)"),
    ],
)
async def test_a_position_beyond_the_end_names_the_size(tables: Session, code: str, where: str) -> None:
    assert (await fail(tables, code)).looked_in == where


@pytest.mark.parametrize(
    "code", ["1 / 0", "raise KeyError('x')", "None.x", "df.Price.str.upper()", "import os; os.environ['NO']", "x ="]
)
async def test_where_nothing_is_known_nothing_is_told(tables: Session, code: str) -> None:
    error = await fail(tables, code)
    assert (error.looked_in, error.available) == ("", ())


async def test_no_code_of_the_programs_own_is_called(session: Session) -> None:
    error = await fail(
        session,
        """
called = []
class Meta(type):
    def __getattribute__(cls, name): called.append(('meta', name)); return super().__getattribute__(name)
class Trap(metaclass=Meta):
    @property
    def __class__(self): called.append('class'); return int
    @property
    def colour(self): called.append('property')
    def __dir__(self): called.append('dir'); return []
    def __eq__(self, other): called.append('eq'); return True
    def __hash__(self): return 1
    def __repr__(self): called.append('repr'); return ''
trap = Trap()
called.clear()
trap.color
""",
    )
    assert (error.looked_in, error.available) == ("attributes of trap: Trap", ("colour",))
    assert (await session.execute("called")).results[0]["text/plain"] == "[]"


async def test_a_subclass_that_lies_about_itself_does_no_harm(session: Session) -> None:
    code = """
class Liar(KeyError):
    @property
    def args(self): raise RuntimeError
    @property
    def __traceback__(self): raise RuntimeError
    def __str__(self): raise RuntimeError
raise Liar('x')
"""
    error = await fail(session, code)
    assert (error.name, error.looked_in) == ("Liar", "")


async def test_thirty_names_are_told_at_most_and_none_is_long(session: Session) -> None:
    error = await fail(session, "d = {f'{n:05}' + 'x' * 500: n for n in range(100_000)}\nd['00700']")
    assert error.looked_in == "keys of d: dict"
    assert len(error.available) == 30
    assert max(map(len, error.available)) <= 82


async def test_what_a_program_says_in_the_kernels_name_is_bounded(session: Session) -> None:
    code = """
shell = get_ipython()
forged = {"ename": "E", "evalue": "", "traceback": [], "looked_in": "a\\n" * 9999, "available": ["b\\n" * 999] * 999}
hook = shell.displayhook
hook.session.send(hook.pub_socket, "error", forged, hook.parent_header, ident=b"error")
1 / 0
"""
    error = await fail(session, code)
    assert error.name == "E"
    assert len(error.available) == 30
    for text in (error.looked_in, *error.available):
        assert len(text) <= 160
        assert "\n" not in text


async def test_names_that_are_no_list_are_none(session: Session) -> None:
    code = """
hook = get_ipython().displayhook
forged = {"ename": "E", "evalue": "", "traceback": [], "looked_in": ["x"], "available": {"a": 1}}
hook.session.send(hook.pub_socket, "error", forged, hook.parent_header, ident=b"error")
1 / 0
"""
    error = await fail(session, code)
    assert (error.looked_in, error.available) == ("['x']", ())
