"""Errors that say what they mean only to who knows it: their words, and what to do.

Facts for hints. A line here is all that it takes to know one more; the first that fits is told. What an error itself
says is not here.
"""

import re

SAYINGS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(said), told)
    for said, told in (
        # Values of another type.
        (
            r"^ValueError: could not convert string to float: '[^']*\d,\d{1,2}\D?'",
            "There are decimal commas: read_csv(decimal=',', thousands='.'), or .str.replace() first.",
        ),
        (
            r"^ValueError: could not convert string to float: '[^'\d]*+\d[^']*+'",
            "Numbers written with separators, signs or units are text: take those out first, "
            "or read_csv(thousands=','), or pd.to_numeric(column, errors='coerce').",
        ),
        (
            r"^ValueError: could not convert string to float",
            "This is text, not a number: encode it with pd.get_dummies(), leave the column out, "
            "or pd.to_numeric(column, errors='coerce').",
        ),
        (
            r"^ValueError: invalid literal for int\(\) with base 10: '[-\d]+\.\d",
            "int(float(text)) reads a decimal number.",
        ),
        (
            r"^TypeError: .*(?:Cannot perform reduction|agg function failed|Could not convert string|"
            r"does not support (?:operation|reduction))",
            "Some columns hold text: choose the columns of numbers, or pass numeric_only=True.",
        ),
        (
            r"^TypeError: .*(?:'str' and '(?:int|float)'|'(?:int|float)' and 'str'|can only concatenate str)",
            "One side is text, the other a number: convert with int(), float(), str() or pd.to_numeric(column).",
        ),
        (
            r"^TypeError: Object of type \w+ is not JSON serializable",
            "json.dumps(…, default=str), or int() and float() first.",
        ),
        (
            r"^TypeError: .*(?:tz-naive and tz-aware|offset-naive and offset-aware)",
            "One side has a time zone: take it off with .dt.tz_localize(None).",
        ),
        (
            r"cannot convert NA to integer|[Cc]annot convert (?:float NaN|non-finite values)",
            "Missing values are no integers: fillna(0), dropna(), or astype('Int64') first.",
        ),
        (r"^AttributeError: Can only use \.dt accessor", "Convert first: column = pd.to_datetime(column)."),
        (
            r"^AttributeError: Can only use \.str accessor",
            "The column is not text; convert it first: column.astype(str).",
        ),
        (
            r"^TypeError: .*not all arguments converted during string formatting",
            "Count the % places, or use an f-string.",
        ),
        # Shapes and conditions.
        (
            r"^ValueError: The truth value of (?:a|an) (?:Series|DataFrame|array|Index)",
            "Combine conditions with &, | and ~, each in parentheses; for one answer use .any() or .all().",
        ),
        (r"^ValueError: If using all scalar values", "Put each value into a list: pd.DataFrame([{…}])."),
        (r"^ValueError: Input (?:X|y) contains NaN", "Fill or drop the missing values before fit()."),
        (
            r"^ValueError: Expected 2D array, got 1D array",
            "A table is wanted: df[['column']], or x.reshape(-1, 1).",
        ),
        (
            r"^ValueError: You are trying to merge on \S+ and \S+ columns",
            "The keys differ in type: make both the same with astype(str).",
        ),
        (r"^MergeError: No common columns", "Name the keys: left_on= and right_on=."),
        (
            r"^ValueError: time data .* doesn't match format|^DateParseError|^ValueError: unconverted data remains",
            "pd.to_datetime(column, format='mixed', dayfirst=…) reads mixed dates; errors='coerce' gives NaT.",
        ),
        (r"^ValueError: Only valid with DatetimeIndex", "pd.to_datetime and set_index(column) first."),
        (
            r"^TypeError: Only valid with DatetimeIndex",
            "Convert first: df.index = pd.to_datetime(df.index), or df.resample(…, on='date column').",
        ),
        # Files that are not what they are taken for.
        (
            r"^UnicodeDecodeError: 'utf-8' codec can't decode byte 0x(?:ff|fe) in position 0",
            "The file is UTF-16: encoding='utf-16'.",
        ),
        (r"^UnicodeDecodeError", "The file is not UTF-8: try encoding='cp1252' or 'latin-1'."),
        (
            r"^ParserError: .*Expected \d+ fields",
            "Look at the first lines; set sep=, skiprows= or on_bad_lines='skip'.",
        ),
        (r"^EmptyDataError", "There is nothing to read in that file; look at its size."),
        (
            r"^ValueError: (?:Trailing data|Extra data)|^JSONDecodeError: Extra data",
            "There is one JSON document per line: pd.read_json(path, lines=True), or json.loads(line) for each line.",
        ),
        (
            r"^JSONDecodeError: Expecting value: line 1 column 1|^ValueError: Expected object or value",
            "That is not JSON, or it is empty: print its first characters.",
        ),
        (
            r"^ValueError: Worksheet named|^KeyError: 'Worksheet .* does not exist",
            "pd.ExcelFile(path).sheet_names lists the sheets.",
        ),
        (r"^BadZipFile", "That is not a zip or .xlsx file; print its first bytes."),
        (
            r"no such table:",
            "SELECT name FROM sqlite_master WHERE type = 'table' lists the tables.",
        ),
        (r"no such column:", "PRAGMA table_info(name) lists the columns of a table."),
        # Names.
        (
            r"^UnboundLocalError",
            "A name that a function assigns is its own there: pass it in and return it, or declare it global.",
        ),
        (
            r"^(?:AttributeError|TypeError): .*'NoneType' object",
            "What is used there is None: a call that changes in place or finds nothing returns None.",
        ),
        (
            r"^TypeError: '(?:DataFrame|Series|list|dict)' object is not callable",
            "Items are taken with [ ], not ( ); or a variable hides the function of that name.",
        ),
        (r"^TypeError: 'method' object is not subscriptable", "Call the method: name(…), not name[…]."),
        (
            r"^TypeError: 'str' object is not callable",
            "A variable hides the function of that name: del it or rename it.",
        ),
        (
            r"^RuntimeError: asyncio\.run\(\) cannot be called|^RuntimeError: This event loop is already",
            "Use await directly.",
        ),
        (r"^RuntimeError: can't start new thread", "Threads and processes are limited to about a hundred."),
        (
            r"[Kk]aleido",
            "Plotly cannot write pictures here: call fig.write_html(path), or draw with matplotlib.",
        ),
        # Programs started.
        (r"^CalledProcessError: Command .*pip", "Nothing can be installed here."),
    )
)
"""`Name: value` of an error, and one sentence or two."""

SYNTAX: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(said), told)
    for said, told in (
        (
            r"unterminated (?:triple-quoted )?string|unterminated f-string",
            "A string must end on its line, or be in triple quotes.",
        ),
        (
            r"was never closed|unexpected EOF|incomplete input",
            "A bracket is left open, or the code was cut off; send all of it.",
        ),
        (r"'(?:return|yield)' outside function", "At top level let the value be the last line, or print it."),
        (r"invalid character", "Write code in plain ASCII: \" and ' for quotes, - for minus."),
        (r"[Tt]abs and spaces", "Indent with four spaces, never with tabs."),
        (r"expected an indented block|unindent does not match|unexpected indent", "Indent with four spaces per level."),
        (r"leading zeros in decimal integer", "Write numbers without leading zeros, or as text."),
        (r"unicodeescape", "Write Windows paths as r'…'; here files are in /mnt/data."),
    )
)
"""What a SyntaxError says, and what to do."""
