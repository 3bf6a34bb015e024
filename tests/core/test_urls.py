"""What is shown of a URL: scheme, host and database, however a password is written into it."""

import pytest

from lrtune.core.urls import shown, shown_command, shown_in, without

# a URL, and what may be shown of it
URLS = {
    "postgresql://me:SECRET@host:5432/db": "postgresql://***@host:5432/db",
    "postgresql+psycopg://:SEC:RET@host/db": "postgresql+psycopg://***@host/db",
    "postgresql://SECRET@host/db": "postgresql://***@host/db",
    "postgresql://host/db?user=me&password=SECRET&x=1": "postgresql://host/db?***",
    "postgresql://host/db?Password=SECRET": "postgresql://host/db?***",
    "postgresql://host?sslpassword=SECRET": "postgresql://host?***",
    "mysql://host/db?passwd=SECRET": "mysql://host/db?***",
    "mssql+pyodbc:///?odbc_connect=DRIVER%3Dx%3BPWD%3DSECRET": "mssql+pyodbc:///?***",
    "sqlite+pysqlcipher://:SECRET@/x.db": "sqlite+pysqlcipher://***@/x.db",
    "s3://KEY:SECRET@bucket/path/x": "s3://***@bucket/path/x",
    "ray://me:SECRET@head:10001": "ray://***@head:10001",
    # signs that end a part elsewhere
    "postgresql://me:SEC@RET@host/db": "postgresql://***@host/db",
    "postgresql://me:SEC RET@host/db": "postgresql://***@host/db",
    "postgresql://me:SEC/RET@host/db": "postgresql://***",
    "postgresql://me:SEC?RET@host/db": "postgresql://***",
    "postgresql://me:SEC#RET@host/db": "postgresql://***",
    "postgresql://host/db?x=a@SECRET": "postgresql://***",
    # malformed
    "postgresql://host/db;Password=SECRET": "postgresql://host/db;***",
    "postgresql://host/db&password=SECRET": "postgresql://host/db&***",
    "postgresql://host/db%3Fpassword=SECRET": "postgresql://host/db%***",
    "postgresql://me:SECRET": "postgresql://***",
    "postgresql://me:12SECRET": "postgresql://***",
    "postgresql://me:SECRET/db": "postgresql://***",
    "postgresql:///me:SECRET@host/db": "postgresql://***",
    "postgresql:/me:SECRET@host/db": "***",
    "postgresql//me:SECRET@host/db": "***",
    "me:SECRET@host/db": "***",
    "password=SECRET": "***",
    "jdbc:sqlserver://host;user=me;password=SECRET": "***",
    "zip://a.zip::ftp://me:SECRET@host/x": "zip://***",
    "simplecache::s3://KEY:SECRET@bucket/x": "simplecache::s3://***@bucket/x",
    "": "",
}
# what holds no password, and is shown as it is
PLAIN = [
    "sqlite:////home/a:b/my@file.db", "sqlite:///My Studies/lrtune.db", "file:///shared/run=3",
    "postgresql://[::1]:5432/db", "s3://bucket/lrtune/a", "memory://x", "/shared/checkpoints",
    "head:6379", "[::1]:6379", "auto", "banana",
]  # fmt: skip


@pytest.mark.parametrize(("url", "wanted"), URLS.items())
def test_no_password_is_shown(url, wanted):
    assert shown(url) == wanted
    assert "SECRET" not in shown(url)


@pytest.mark.parametrize("url", PLAIN)
def test_a_url_without_a_password_is_shown_as_it_is(url):
    assert shown(url) == url


def test_a_url_in_a_text_is_shown_likewise():
    assert shown_in("--db=mysql://me:SEC RET@host/db") == "--db=mysql://***@host/db"
    assert shown_in("val_loss:min") == "val_loss:min"
    words = ["python", "a b.py", "--db=mysql://me:SECRET@host/db"]
    assert shown_command(words) == "python 'a b.py' '--db=mysql://***@host/db'"


# a URL, what a driver says, and what is told of it
@pytest.mark.parametrize(
    ("url", "said", "told"),
    [
        (
            "postgresql://me:SECRET@host/db",
            'role "me" cannot log in to db at host: postgresql://me:SECRET@host/db',
            'role "***" cannot log in to db at host: postgresql://***:***@host/db',
        ),
        (
            "postgresql://me:SEC@RE%20T@host/db",
            'no host "RE T@host", and no home',
            'no host "*** ***@host", and no home',
        ),
        (
            "mssql:///?odbc_connect=PWD%3DSEC_RET%3B",
            "PWD=SEC_RET; is not known",
            "***=***_***; is not known",
        ),
        ("sqlite:////data/a.db", "unable to open /data/a.db", "unable to open /data/a.db"),
        ("", "no URL", "no URL"),
    ],
)
def test_what_a_driver_says_is_told_without_the_password(url, said, told):
    assert without(url, said) == told
