//! The program's log levels are changed while it runs, as `istioctl proxy-config log` does.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// The running program. It dies with its owner.
struct Program {
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
    folder: PathBuf,
}

impl Program {
    fn start() -> Program {
        let folder = std::env::temp_dir().join(format!("waypoint-log-{}", std::process::id()));
        let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/bookinfo");
        let mut child = Command::new(env!("CARGO_BIN_EXE_waypoint"))
            .env("NO_COLOR", "1")
            .env_remove("WAYPOINT_LOG")
            .arg("run")
            .arg("-f")
            .arg(examples)
            .arg("--dev-ca")
            .arg(&folder)
            .args(["--hbone-addr", "127.0.0.1:0", "--admin-addr", "127.0.0.1:0"])
            .args([
                "--readiness-addr",
                "127.0.0.1:0",
                "--stats-addr",
                "127.0.0.1:0",
            ])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let (lines, stderr) = (log.clone(), child.stderr.take().unwrap());
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                lines.lock().unwrap().push(line);
            }
        });
        Program { child, log, folder }
    }

    /// Waits for a line of the log.
    fn line(&self, part: &str) -> String {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let found = self.lines(part).pop();
            if let Some(line) = found {
                return line;
            }
            assert!(
                Instant::now() < deadline,
                "no line with {part:?}: {:?}",
                self.log
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn lines(&self, part: &str) -> Vec<String> {
        let log = self.log.lock().unwrap();
        log.iter()
            .filter(|line| line.contains(part))
            .cloned()
            .collect()
    }

    /// Status and body.
    fn ask(&self, method: &str, path: &str) -> (String, String) {
        let ready = self.line("ready hbone=");
        let address = ready.split(" admin=").nth(1).unwrap();
        let mut tcp = TcpStream::connect(address.split(' ').next().unwrap()).unwrap();
        write!(tcp, "{method} {path} HTTP/1.0\r\nhost: localhost\r\n\r\n").unwrap();
        let mut answer = String::new();
        tcp.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head[9..12].to_owned(), body.to_owned())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

#[test]
fn log_levels_change_while_it_runs() {
    let mut program = Program::start();
    let (_, levels) = program.ask("GET", "/logging");
    assert!(
        levels.starts_with("active loggers:\n  a2a: info\n  admin: info\n"),
        "{levels}"
    );
    assert!(levels.contains("\n  rbac: info\n"), "{levels}");
    assert_eq!(program.lines("/ready").len(), 0);

    let (status, levels) = program.ask("POST", "/logging?admin=debug");
    assert_eq!(status, "200");
    assert!(
        levels.contains("  admin: debug\n") && levels.contains("  rbac: info\n"),
        "{levels}"
    );
    program.ask("GET", "/ready");
    assert!(
        program
            .line("path=\"/ready\"")
            .contains("DEBUG waypoint_proxy::admin")
    );

    let (_, levels) = program.ask("POST", "/logging?paths=rbac:trace,udp:off");
    assert!(
        levels.contains("  rbac: trace\n") && levels.contains("  udp: off\n"),
        "{levels}"
    );
    let (_, levels) = program.ask("POST", "/logging?group=tracing:debug");
    assert!(levels.contains("  tracing: debug\n"), "{levels}");
    let (_, levels) = program.ask("POST", "/logging?level=warning");
    assert!(
        levels.contains("  admin: warning\n") && levels.contains("  rbac: warning\n"),
        "{levels}"
    );
    let before = program.lines("asked").len();
    program.ask("GET", "/ready");
    assert_eq!(program.lines("asked").len(), before);

    for (path, says) in [
        (
            "/logging?nonsense=debug",
            "error: unknown logger name: nonsense\n",
        ),
        ("/logging?level=loud", "error: unknown logger level: loud\n"),
        ("/logging?paths=rbac", "error: rbac: not NAME:LEVEL\n"),
    ] {
        let (status, told) = program.ask("POST", path);
        assert_eq!(status, "400");
        assert!(told.starts_with(says) && told.contains("usage: "), "{told}");
    }
    assert_eq!(program.ask("GET", "/logging?level=debug").0, "405");

    assert_eq!(program.ask("GET", "/quitquitquit").0, "405");
    assert_eq!(program.ask("POST", "/quitquitquit").0, "200");
    assert_eq!(program.child.wait().unwrap().code(), Some(0));
}
