"""What programs written for hosted interpreters do, works."""

import base64
import io
from typing import Any

import PIL.Image
import pytest

from sandbox.execution import Error, Execution, Status
from sandbox.session import Session

SALES = b"month,city,sales\n1,Oslo,10\n2,Oslo,20\n1,Rome,30\n2,Rome,45\n"
READ_SALES = "import pandas as pd\ndf = pd.read_csv('/mnt/data/sales.csv')\n"


@pytest.fixture
async def sales(session: Session) -> Session:
    """A session with a small table in `/mnt/data/sales.csv`."""
    await session.upload("sales.csv", SALES)
    return session


async def run(session: Session, code: str) -> Execution:
    """An execution that ends well and has nothing to complain about."""
    execution = await session.execute(code, 60)
    assert (execution.status, execution.error, execution.reason) == (Status.OK, None, "")
    assert execution.stderr == ""
    return execution


async def failure(session: Session, code: str) -> Error:
    """What a program raises."""
    execution = await session.execute(code, 60)
    assert execution.status is Status.ERROR
    assert execution.error is not None
    return execution.error


def pictures(execution: Execution) -> list[bytes]:
    """The PNGs that an execution showed, in order."""
    return [base64.b64decode(result["image/png"]) for result in execution.results if "image/png" in result]


def check_drawn(png: bytes) -> None:
    """It is a whole PNG of some size, and there is something on it."""
    with PIL.Image.open(io.BytesIO(png)) as image:
        image.load()
        assert image.format == "PNG"
        assert min(image.size) > 100
        darkest, lightest = image.convert("L").getextrema()
    assert darkest != lightest


def value(execution: Execution) -> Any:
    """The last expression's value, as text."""
    return execution.results[-1]["text/plain"]


class TestFiles:
    async def test_read_csv_from_its_absolute_path(self, sales: Session) -> None:
        execution = await run(sales, READ_SALES + "df.groupby('city').sales.sum().to_dict()")
        assert value(execution) == "{'Oslo': 30, 'Rome': 75}"
        assert execution.artifacts == ()

    async def test_the_workspace_is_the_working_directory(self, sales: Session) -> None:
        execution = await run(sales, "import os; print(os.getcwd(), os.listdir())\nopen('notes.txt', 'w').write('hi')")
        assert execution.stdout == "/mnt/data ['sales.csv']\n"
        assert await sales.download("notes.txt") == b"hi"

    async def test_savefig_leaves_an_artifact(self, sales: Session) -> None:
        code = "import matplotlib.pyplot as plt\nfig, ax = plt.subplots()\nax.plot(df.month, df.sales)\n"
        code += "fig.savefig('/mnt/data/chart.png', dpi=150)\nplt.close(fig)"
        execution = await run(sales, READ_SALES + code)
        (artifact,) = execution.artifacts
        png = await sales.download("chart.png")
        assert (artifact.path, artifact.mime, artifact.change) == ("chart.png", "image/png", "created")
        assert artifact.size == len(png)
        check_drawn(png)
        assert execution.results == ()

    @pytest.mark.parametrize("engine_name", ["openpyxl", "xlsxwriter"])
    async def test_an_excel_sheet_is_written_and_read(self, sales: Session, engine_name: str) -> None:
        code = f"df.to_excel('/mnt/data/sales.xlsx', index=False, engine={engine_name!r})"
        execution = await run(sales, READ_SALES + code)
        assert [artifact.path for artifact in execution.artifacts] == ["sales.xlsx"]
        assert "spreadsheet" in execution.artifacts[0].mime
        execution = await run(sales, "pd.read_excel('/mnt/data/sales.xlsx').equals(df)")
        assert value(execution) == "True"

    async def test_parquet_json_markdown_and_html_tables_are_written_and_read(self, sales: Session) -> None:
        code = """
import io
df.to_parquet('sales.parquet'); assert pd.read_parquet('sales.parquet').equals(df)
df.to_json('sales.json'); assert pd.read_json('sales.json').equals(df)
df.to_html('sales.html', index=False); assert pd.read_html('sales.html')[0].equals(df)
print(df.head(1).to_markdown())
"""
        execution = await run(sales, READ_SALES + code)
        assert execution.stdout.splitlines()[-1] == "|  0 |       1 | Oslo   |      10 |"

    async def test_a_database_on_disk_outlives_its_connection(self, sales: Session) -> None:
        code = "import sqlite3\nwith sqlite3.connect('/mnt/data/sales.db') as db: df.to_sql('sales', db)\ndb.close()"
        assert [artifact.path for artifact in (await run(sales, READ_SALES + code)).artifacts] == ["sales.db"]
        await sales.restart()
        code = (
            "import sqlite3\nsqlite3.connect('/mnt/data/sales.db').execute('SELECT sum(sales) FROM sales').fetchone()"
        )
        assert value(await run(sales, code)) == "(105,)"

    async def test_a_module_in_the_workspace_is_imported_after_the_standard_library(self, session: Session) -> None:
        for name in ("rates", "json"):
            await session.upload(f"{name}.py", b"vat = 0.25\n")
        assert value(await run(session, "import rates, json; rates.vat, hasattr(json, 'vat')")) == "(0.25, False)"
        assert (await run(session, "!python -c 'import rates; print(rates.vat)'")).stdout == "0.25\n"

    async def test_an_archive_is_made_and_opened(self, sales: Session) -> None:
        await run(sales, "import shutil; shutil.make_archive('/tmp/all', 'zip', '/mnt/data')")
        assert value(await run(sales, "import zipfile; zipfile.ZipFile('/tmp/all.zip').namelist()")) == "['sales.csv']"


class TestProcesses:
    async def test_a_shell_command_prints(self, sales: Session) -> None:
        execution = await run(sales, "!ls -la /mnt/data")
        assert execution.stdout.startswith("total ")
        assert "sales.csv" in execution.stdout
        assert value(await run(sales, "names = !ls\nlist(names)")) == "['sales.csv']"

    async def test_a_failing_shell_command_is_not_an_error(self, session: Session) -> None:
        execution = await session.execute("!ls /nowhere\nprint(_exit_code)")
        assert (execution.status, execution.stdout) == (Status.OK, "2\n")
        assert "No such file" in execution.stderr

    async def test_subprocess_output_is_captured_or_streamed_in_order(self, session: Session) -> None:
        code = """
import os, subprocess, sys
print('first')
done = subprocess.run([sys.executable, '-c', 'print(6 * 7)'], capture_output=True, text=True, check=True)
print(done.stdout, end='')
subprocess.run(['echo', 'inherited'])
print('then')
os.system('echo system')
print('last')
"""
        assert (await run(session, code)).stdout == "first\n42\ninherited\nthen\nsystem\nlast\n"

    async def test_a_cell_for_the_shell(self, session: Session) -> None:
        assert (await run(session, "%%bash\nfor i in 1 2; do echo $i; done")).stdout == "1\n2\n"

    async def test_a_pool_of_processes_maps_a_function_of_the_cell(self, session: Session) -> None:
        code = """
import multiprocessing
def square(x): return x * x
if __name__ == '__main__':
    with multiprocessing.Pool(2) as pool:
        print(pool.map(square, range(5)))
"""
        assert (await run(session, code)).stdout == "[0, 1, 4, 9, 16]\n"

    async def test_an_executor_of_processes_maps_a_function_of_the_cell(self, session: Session) -> None:
        code = """
from concurrent.futures import ProcessPoolExecutor
def square(x): return x * x
with ProcessPoolExecutor(2) as pool: print(list(pool.map(square, range(5))))
"""
        assert (await run(session, code)).stdout == "[0, 1, 4, 9, 16]\n"

    async def test_what_a_child_process_prints_is_seen(self, session: Session) -> None:
        code = """
import multiprocessing
child = multiprocessing.Process(target=print, args=('from the child',))
child.start(); child.join(); print(child.exitcode)
"""
        assert (await run(session, code)).stdout == "from the child\n0\n"

    async def test_joblib_runs_a_function_of_the_cell(self, session: Session) -> None:
        code = """
from joblib import Parallel, delayed
def square(x): return x * x
print(Parallel(n_jobs=2)(delayed(square)(i) for i in range(5)))
"""
        assert (await run(session, code)).stdout == "[0, 1, 4, 9, 16]\n"


class TestConcurrency:
    async def test_await_at_the_top_level(self, session: Session) -> None:
        code = """
import asyncio
async def double(x):
    await asyncio.sleep(0.01)
    return 2 * x
await asyncio.gather(double(1), double(2))
"""
        assert value(await run(session, code)) == "[2, 4]"

    async def test_async_with_and_async_for_at_the_top_level(self, session: Session) -> None:
        code = """
import asyncio
async def numbers():
    for i in range(3): yield i
async with asyncio.timeout(5):
    async for i in numbers(): print(i)
"""
        assert (await run(session, code)).stdout == "0\n1\n2\n"

    async def test_threads_print_and_return(self, session: Session) -> None:
        code = """
import threading
from concurrent.futures import ThreadPoolExecutor
thread = threading.Thread(target=print, args=('from a thread',))
thread.start(); thread.join()
with ThreadPoolExecutor(4) as pool: print(sum(pool.map(lambda x: x * x, range(100))))
"""
        assert (await run(session, code)).stdout == "from a thread\n328350\n"


class TestResults:
    async def test_a_table_is_plain_text_and_html(self, sales: Session) -> None:
        (result,) = (await run(sales, READ_SALES + "df")).results
        assert "<table" in result["text/html"]
        assert "Oslo" in result["text/plain"]

    async def test_a_styled_table_is_html(self, sales: Session) -> None:
        (result,) = (await run(sales, READ_SALES + "df.style.highlight_max(subset=['sales'])")).results
        assert "background-color" in result["text/html"]

    async def test_display_comes_before_the_value(self, sales: Session) -> None:
        execution = await run(sales, READ_SALES + "display(df)\nfrom IPython.display import Markdown\nMarkdown('*x*')")
        assert [sorted(result) for result in execution.results] == [
            ["text/html", "text/plain"],
            ["text/markdown", "text/plain"],
        ]

    async def test_sympy_is_pretty(self, session: Session) -> None:
        code = "import sympy\nx = sympy.symbols('x')\nsympy.integrate(sympy.sqrt(x) / 2, x)"
        (result,) = (await run(session, code)).results
        assert result["text/latex"] == r"$\displaystyle \frac{x^{\frac{3}{2}}}{3}$"
        assert result["text/plain"] == "x**(3/2)/3"
        (result,) = (await run(session, "sympy.init_printing()\nx ** 2")).results
        assert result["text/plain"].split() == ["2", "x"]

    async def test_plotly_shows_a_figure_and_writes_html(self, session: Session) -> None:
        code = "import plotly.express as px\nfig = px.bar(x=['a', 'b'], y=[1, 2])\nfig.write_html('/mnt/data/f.html')\n"
        execution = await run(session, code + "fig.show()")
        (result,) = execution.results
        assert result["application/vnd.plotly.v1+json"]["data"][0]["type"] == "bar"
        assert [artifact.mime for artifact in execution.artifacts] == ["text/html"]
        assert b"Plotly.newPlot" in await session.download("f.html")
        (result,) = (await run(session, "fig")).results
        assert "application/vnd.plotly.v1+json" in result

    async def test_an_image_is_shown_and_saved(self, session: Session) -> None:
        code = """
from PIL import Image, ImageDraw
image = Image.new('RGB', (200, 150), 'white')
ImageDraw.Draw(image).ellipse((20, 20, 120, 120), fill='red')
image.save('/mnt/data/dot.jpg')
image
"""
        execution = await run(session, code)
        (png,) = pictures(execution)
        check_drawn(png)
        assert [artifact.mime for artifact in execution.artifacts] == ["image/jpeg"]
        assert value(await run(session, "Image.open('/mnt/data/dot.jpg').size")) == "(200, 150)"

    async def test_statistics_print_their_summary(self, sales: Session) -> None:
        code = "import statsmodels.formula.api as smf\nprint(smf.ols('sales ~ month + city', df).fit().params.round(1))"
        assert "city[T.Rome]    22.5" in (await run(sales, READ_SALES + code)).stdout

    async def test_a_model_is_fitted_and_shown(self, sales: Session) -> None:
        code = "from sklearn.linear_model import LinearRegression\nLinearRegression().fit(df[['month']], df.sales)"
        (result,) = (await run(sales, READ_SALES + code)).results
        assert result["text/plain"] == "LinearRegression()"
        assert "<style>" in result["text/html"]

    async def test_progress_bars_say_where_they_are(self, session: Session) -> None:
        for module in ("tqdm", "tqdm.auto"):
            execution = await session.execute(f"from {module} import tqdm\nfor i in tqdm(range(3)): pass")
            assert (execution.status, execution.stdout) == (Status.OK, "")
            assert "100%" in execution.stderr
            assert "3/3" in execution.stderr
            assert "Warning" not in execution.stderr


PLOT = "import matplotlib.pyplot as plt\nplt.plot([1, 3, 2])\n"


class TestFigures:
    @pytest.mark.parametrize(
        "code",
        [
            pytest.param(PLOT + "plt.show()", id="shown"),
            pytest.param(PLOT, id="left open"),
            pytest.param(PLOT + "plt.savefig('/mnt/data/a.png')\nplt.show()", id="saved and shown"),
            pytest.param("%matplotlib inline\n" + PLOT + "plt.tight_layout()\nplt.show()", id="asked for inline"),
            pytest.param("%matplotlib notebook\n" + PLOT + "plt.show()", id="asked for a widget"),
        ],
    )
    async def test_one_figure_is_one_picture(self, session: Session, code: str) -> None:
        (png,) = pictures(await run(session, code))
        check_drawn(png)
        # Shown once, it is not there in the next cell.
        assert pictures(await run(session, "plt.plot([1, 2])\nplt.show()")) != [png]
        assert pictures(await run(session, "1")) == []

    async def test_two_figures_are_two_pictures(self, session: Session) -> None:
        shown = pictures(await run(session, PLOT + "plt.show()\nplt.figure()\nplt.bar([1, 2], [3, 4])\nplt.show()"))
        assert len(set(shown)) == 2

    async def test_a_closed_figure_is_not_shown(self, session: Session) -> None:
        assert (await run(session, PLOT + "plt.close('all')")).results == ()

    async def test_seaborn_draws(self, sales: Session) -> None:
        code = "import seaborn as sns\nsns.set_theme()\nsns.barplot(df, x='city', y='sales', hue='month')\nplt.show()"
        (png,) = pictures(await run(sales, READ_SALES + "import matplotlib.pyplot as plt\n" + code))
        check_drawn(png)

    async def test_seaborn_draws_a_grid(self, sales: Session) -> None:
        (png,) = pictures(await run(sales, READ_SALES + "import seaborn as sns\nsns.pairplot(df);"))
        check_drawn(png)

    async def test_pandas_and_networkx_draw(self, sales: Session) -> None:
        code = (
            "df.plot.bar(x='city', y='sales')\nplt.show()\nimport networkx as nx\nnx.draw(nx.path_graph(4))\nplt.show()"
        )
        shown = pictures(await run(sales, READ_SALES + "import matplotlib.pyplot as plt\n" + code))
        assert len(shown) == 2
        for png in shown:
            check_drawn(png)

    @pytest.mark.parametrize("theme", ["", "import seaborn; seaborn.set_theme()\n", "plt.style.use('ggplot')\n"])
    async def test_chinese_japanese_and_korean_labels_have_glyphs(self, session: Session, theme: str) -> None:
        code = "plt.plot([1, -3, 2], label='売上高')\nplt.title('每月销售额')\nplt.xlabel('서울')\nplt.legend()\n"
        (png,) = pictures(await run(session, f"import matplotlib.pyplot as plt\n{theme}{code}plt.show()"))
        check_drawn(png)

    async def test_an_animation_is_saved(self, session: Session) -> None:
        code = """
import matplotlib.pyplot as plt
from matplotlib.animation import FuncAnimation
fig, ax = plt.subplots()
(line,) = ax.plot([0, 1], [0, 1])
FuncAnimation(fig, lambda i: line.set_ydata([0, i]), frames=3).save('/mnt/data/a.gif', writer='pillow')
plt.close()
"""
        assert [artifact.mime for artifact in (await run(session, code)).artifacts] == ["image/gif"]


class TestDocuments:
    async def test_a_pdf_is_written_and_read(self, session: Session) -> None:
        code = """
from reportlab.lib.pagesizes import A4
from reportlab.pdfgen import canvas
page = canvas.Canvas('/mnt/data/report.pdf', pagesize=A4)
page.drawString(72, 720, 'Quarterly report')
page.save()
"""
        execution = await run(session, code)
        assert [artifact.mime for artifact in execution.artifacts] == ["application/pdf"]
        reading = "import {0}\nprint({0}.PdfReader('/mnt/data/report.pdf').pages[0].extract_text())"
        assert (await run(session, reading.format("pypdf"))).stdout.strip() == "Quarterly report"
        assert (await run(session, reading.format("PyPDF2"))).stdout.strip() == "Quarterly report"
        code = (
            "import pdfplumber\nwith pdfplumber.open('/mnt/data/report.pdf') as pdf: print(pdf.pages[0].extract_text())"
        )
        assert (await run(session, code)).stdout == "Quarterly report\n"

    async def test_a_word_document_is_made_and_read(self, session: Session) -> None:
        code = """
import docx
document = docx.Document()
document.add_heading('Findings', 1)
document.add_paragraph('Sales grew.')
document.add_table(1, 1).cell(0, 0).text = 'cell'
document.save('/mnt/data/findings.docx')
again = docx.Document('/mnt/data/findings.docx')
print([paragraph.text for paragraph in again.paragraphs], again.tables[0].cell(0, 0).text)
"""
        execution = await run(session, code)
        assert execution.stdout == "['Findings', 'Sales grew.'] cell\n"
        assert "wordprocessingml" in execution.artifacts[0].mime

    async def test_slides_are_made_and_read(self, session: Session) -> None:
        code = """
from pptx import Presentation
deck = Presentation()
slide = deck.slides.add_slide(deck.slide_layouts[0])
slide.shapes.title.text = 'Results'
deck.save('/mnt/data/deck.pptx')
print([slide.shapes.title.text for slide in Presentation('/mnt/data/deck.pptx').slides])
"""
        execution = await run(session, code)
        assert execution.stdout == "['Results']\n"
        assert "presentationml" in execution.artifacts[0].mime

    async def test_a_page_is_taken_apart(self, session: Session) -> None:
        code = "from bs4 import BeautifulSoup\nBeautifulSoup('<p>a <b>bold</b> word</p>', 'lxml').b.text"
        assert value(await run(session, code)) == "'bold'"


class TestErrors:
    @pytest.mark.parametrize("code", ["input('name? ')", "import getpass; getpass.getpass()"])
    async def test_asking_somebody_fails_at_once(self, session: Session, code: str) -> None:
        error = await failure(session, code)
        assert error.name == "EOFError"
        assert "nobody to ask" in error.value

    async def test_a_traceback_has_no_colour_and_the_users_frames_first(self, session: Session) -> None:
        code = "import pandas as pd\ndef f(frame):\n    return frame['nothing']\n\nf(pd.DataFrame({'a': [1]}))"
        error = await failure(session, code)
        assert error.name == "KeyError"
        lines = error.traceback.splitlines()
        assert lines[:5] == [
            "Traceback (most recent call last):",
            "  Cell In[1], line 5, in <module>",
            "    f(pd.DataFrame({'a': [1]}))",
            "  Cell In[1], line 3, in f",
            "    return frame['nothing']",
        ]
        assert lines[-1] == "KeyError: 'nothing'"
        assert "\x1b" not in error.traceback
        assert "ipykernel" not in error.traceback
        assert "IPython" not in error.traceback

    async def test_a_cause_inside_a_library_is_words_after_the_users_frames(self, session: Session) -> None:
        code = "import urllib.request\nurllib.request.urlopen('http://x.invalid')"
        lines = (await failure(session, code)).traceback.splitlines()
        assert lines[:2] == ["Traceback (most recent call last):", "  Cell In[1], line 2, in <module>"]
        assert lines[-2].startswith("Caused by socket.gaierror: ")
        assert lines[-1].startswith("urllib.error.URLError: ")

    async def test_a_cause_in_the_users_code_is_told_first(self, session: Session) -> None:
        code = "try:\n    {}['a']\nexcept KeyError as error:\n    raise ValueError('outer') from error"
        traceback = (await failure(session, code)).traceback
        assert traceback.index("KeyError: 'a'") < traceback.index("direct cause") < traceback.index("ValueError: outer")

    async def test_what_failed_in_another_process_is_told(self, session: Session) -> None:
        code = "import multiprocessing\ndef f(x): return 1 / x\nwith multiprocessing.Pool(2) as pool: pool.map(f, [0])"
        traceback = (await failure(session, code)).traceback
        assert traceback.splitlines()[1] == "  Cell In[1], line 3, in <module>"
        assert "line 2, in f" in traceback

    @pytest.mark.parametrize(
        ("code", "told"),
        [
            ("x = 1\ny = (2\n", "line 2\n    y = (2\n        ^\nSyntaxError: '(' was never closed"),
            ("print 1", "line 1\n    print 1\n    ^^^^^^^\nSyntaxError: Missing parentheses in call to 'print'."),
            ("if 1:\npass", "line 2\n    pass\n    ^^^^\nIndentationError: expected an indented block after 'if'"),
            ("x = 1\nreturn x", "line 2\n    return x\n    ^^^^^^^^\nSyntaxError: 'return' outside function"),
        ],
    )
    async def test_a_syntax_error_points_at_its_place_and_nowhere_else(
        self, session: Session, code: str, told: str
    ) -> None:
        assert f'File "Cell In[1]", {told}' in (traceback := (await failure(session, code)).traceback)
        assert traceback.startswith('  File "Cell In[1]"')

    async def test_a_missing_command_or_module_names_itself(self, session: Session) -> None:
        assert (await failure(session, "import no_such_module")).value == "No module named 'no_such_module'"
        assert "no_such_magic" in str((await session.execute("%no_such_magic")).error)

    async def test_names_survive_an_error(self, session: Session) -> None:
        await failure(session, "kept = 42\n1 / 0")
        assert value(await run(session, "kept")) == "42"

    async def test_warnings_and_logs_are_stderr(self, session: Session) -> None:
        code = "import logging, warnings\nwarnings.warn('careful')\nlogging.warning('logged')\nprint('printed')"
        execution = await session.execute(code)
        assert (execution.status, execution.stdout) == (Status.OK, "printed\n")
        assert "UserWarning: careful" in execution.stderr
        assert "WARNING:root:logged" in execution.stderr
