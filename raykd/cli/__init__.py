"""The command line. Only the standard library is imported before signals are listened to."""


def main() -> None:
    """Run the ``raykd`` command and exit with its code."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback from the middle of an import
    from raykd.cli.loading import tell_of_loading
    from raykd.cli.stop import Stop
    from raykd.surroundings import name_user, wait_passively

    stop = Stop()
    stop.install()
    tell_of_loading()
    name_user()
    wait_passively()
    from raykd.cli.app import app

    app.main(prog_name="raykd", obj=stop)
