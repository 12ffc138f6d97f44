//! Running other programs: every failure says the command line and what it printed.

use std::ffi::OsStr;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

/// Runs `command` and returns what it printed; panics when it does not exit with 0.
pub fn stdout_of(command: &mut Command) -> String {
    let output = output_of(command);
    assert!(output.status.success(), "{command:?}: {}: {}", output.status, text(&output.stderr));
    text(&output.stdout)
}

/// Runs `command` to its end, whatever that is.
pub fn output_of(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("run {command:?}: {error}"))
}

/// Runs `command` with `input` on its standard input; panics when it does not exit with 0.
pub fn feed(command: &mut Command, input: &str) {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("run {command:?}: {error}"));
    let mut stdin = child.stdin.take().expect("stdin is piped");
    // A program that stops reading says why on stderr.
    let written = stdin.write_all(input.as_bytes());
    drop(stdin);
    let output = child.wait_with_output().expect("wait for the program");
    assert!(
        output.status.success() && written.is_ok(),
        "{command:?}: {}: {}\ninput:\n{input}",
        output.status,
        text(&output.stderr)
    );
}

/// `ip ARGS`, for what tests build around the data plane.
pub fn ip<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> String {
    stdout_of(Command::new("ip").args(args))
}

/// Bytes as text, for messages.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The `netpath` binary: `NETPATH_BIN`, else beside this program or one directory up, where cargo puts it.
pub fn netpath_binary() -> PathBuf {
    if let Some(path) = std::env::var_os("NETPATH_BIN") {
        return PathBuf::from(path);
    }
    let this = std::env::current_exe().expect("the path of this program");
    let beside = this.ancestors().skip(1).take(2).map(|dir| dir.join("netpath"));
    beside.into_iter().find(|path| path.is_file()).unwrap_or_else(|| {
        panic!("no `netpath` beside {}: run `cargo build -p netpath-agent`, or set NETPATH_BIN", this.display())
    })
}
