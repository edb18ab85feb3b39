"""The command line. Only the standard library is imported before signals are listened to."""


def main() -> None:
    """Run the ``raykd`` command and exit with its code."""
    from raykd.cli.stop import Stop

    stop = Stop()
    stop.install()
    from raykd.cli.app import app

    app.main(prog_name="raykd", obj=stop)
