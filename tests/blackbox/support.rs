//! A running server and what tests say to it.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How long anything may take before a test fails: far more than it needs, for machines that are busy.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A server that ends with its owner.
pub struct Server {
    child: Child,
    pub listen: SocketAddr,
    pub admin: SocketAddr,
    pub ready_line: String,
    stderr: Arc<Mutex<String>>,
}

/// The binary with arguments, all streams piped and the environment free of our variables.
pub fn foreshadow(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_foreshadow"));
    command.args(arguments).env_remove("FORESHADOW_PASSWORD");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// `serve` on free ports, with little memory and no busy polling: many of these run at once on few cores.
pub fn serve_command(flags: &[&str]) -> Command {
    let mut command = foreshadow(&["serve", "--exit-on-stdin-close"]);
    let given = |name: &str| flags.iter().any(|flag| flag.split('=').next() == Some(name));
    let usual = [
        ("--listen", "127.0.0.1:0"),
        ("--admin", "127.0.0.1:0"),
        ("--memory", "64MiB"),
        ("--busy-poll-us", "0"),
    ];
    for (name, value) in usual.into_iter().filter(|(name, _)| !given(name)) {
        command.args([name, value]);
    }
    command.args(flags);
    command
}

/// Runs a command that is to end by itself.
pub fn run_to_end(mut command: Command) -> Output {
    let child = command.spawn().expect("the binary starts");
    child.wait_with_output().expect("the binary ends")
}

/// Looks again and again until `look` finds something.
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

impl Server {
    /// Starts a server with these flags beside the usual ones and waits until it is ready.
    pub fn start(flags: &[&str]) -> Server {
        Server::of_command(serve_command(flags))
    }

    pub fn of_command(command: Command) -> Server {
        Server::try_of_command(command).unwrap_or_else(|why| panic!("{why}"))
    }

    /// The same, or why it does not start.
    pub fn try_of_command(mut command: Command) -> Result<Server, String> {
        let mut child = command.spawn().expect("the binary starts");
        let stderr = Arc::new(Mutex::new(String::new()));
        let (pipe, text) = (child.stderr.take().expect("piped"), stderr.clone());
        std::thread::spawn(move || {
            for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                let mut text = text.lock().expect("nobody panics under it");
                text.push_str(&line);
                text.push('\n');
            }
        });
        let mut ready_line = String::new();
        let read = BufReader::new(child.stdout.take().expect("piped")).read_line(&mut ready_line);
        let field = |name: &str| {
            ready_line.split_whitespace().find_map(|field| field.strip_prefix(&format!("{name}=")))
        };
        let (Ok(1..), Some(listen), Some(admin)) = (read, field("listen"), field("admin")) else {
            let status = child.wait();
            let stderr = stderr.lock().expect("nobody panics under it");
            return Err(format!("no ready line but {ready_line:?}, {status:?}: {stderr}"));
        };
        let listen = listen.parse().expect("an address");
        // A server without admin pages has no address to ask.
        let admin = admin.parse().unwrap_or(SocketAddr::from(([127, 0, 0, 1], 0)));
        Ok(Server { child, listen, admin, ready_line, stderr })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A connection whose reads and writes fail instead of hanging.
    pub fn connect(&self) -> TcpStream {
        connect(self.listen)
    }

    /// What was logged so far.
    pub fn logged(&self) -> String {
        self.stderr.lock().expect("nobody panics under it").clone()
    }

    /// Status and body of an admin page.
    pub fn page(&self, path: &str) -> (u16, String) {
        let mut stream = connect(self.admin);
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("answered");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
        (head[9..12].parse().expect("a status"), body.to_owned())
    }

    /// Sum of a metric over its labels.
    pub fn metric(&self, name: &str) -> f64 {
        self.metric_values(name).iter().sum()
    }

    /// A metric's value for each of its labels.
    fn metric_values(&self, name: &str) -> Vec<f64> {
        let (_, text) = self.page("/metrics");
        let lines = text.lines().filter(|line| {
            line.strip_prefix(name).is_some_and(|rest| rest.starts_with('{') || rest.starts_with(' '))
        });
        let values: Vec<f64> = lines.map(|line| line.rsplit(' ').next().unwrap().parse().unwrap()).collect();
        assert!(!values.is_empty(), "no metric {name}");
        values
    }

    /// Bytes of buffers that are there without any client: those for receiving, as soon as all cores have reported.
    pub fn idle_buffer_bytes(&self) -> f64 {
        eventually("all cores report", || {
            let values = self.metric_values("foreshadow_buffer_bytes");
            values.iter().all(|bytes| *bytes > 0.0).then(|| values.iter().sum())
        })
    }

    /// Waits until a metric is as wanted.
    pub fn metric_becomes(&self, name: &str, wanted: impl Fn(f64) -> bool) -> f64 {
        eventually(name, || Some(self.metric(name)).filter(|value| wanted(*value)))
    }

    /// User and system time that the process took so far.
    pub fn cpu_time(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).expect("it runs");
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        // USER_HZ is 100 on every Linux this runs on.
        Duration::from_millis(ticks * 10)
    }

    /// Time that its threads were on a CPU, to the nanosecond.
    pub fn scheduled_time(&self) -> Duration {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid())).expect("it runs");
        let nanos = tasks.map(|task| {
            let line = std::fs::read_to_string(task.unwrap().path().join("schedstat")).expect("threads stay");
            line.split_whitespace().next().unwrap().parse::<u64>().unwrap()
        });
        Duration::from_nanos(nanos.sum())
    }

    /// Resident memory in bytes.
    pub fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a running process");
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    }

    /// Sends a signal by its name.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args(["-s", name, &self.pid().to_string()]).status();
        assert!(status.expect("kill is there").success());
    }

    /// Closes its standard input.
    pub fn close_stdin(&mut self) {
        drop(self.child.stdin.take());
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        eventually("the server ends", || self.child.try_wait().expect("it is our child"))
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        self.child.try_wait().expect("it is our child").is_none()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("somebody listens");
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Reads exactly as many bytes as are expected and compares them.
pub fn expect(stream: &mut TcpStream, expected: impl AsRef<[u8]>) {
    let expected = expected.as_ref();
    let mut got = vec![0; expected.len()];
    let mut len = 0;
    while len < got.len() {
        match stream.read(&mut got[len..]) {
            Ok(0) => break,
            Ok(n) => len += n,
            // A machine that was paused.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => panic!("{error} after {:?}", String::from_utf8_lossy(&got[..len])),
        }
    }
    if got[..len] != *expected {
        let text = |bytes: &[u8]| String::from_utf8_lossy(&bytes[..bytes.len().min(300)]).into_owned();
        panic!("got {:?} for {:?}", text(&got[..len]), text(expected));
    }
}

/// Sends bytes and expects the reply.
pub fn ask(stream: &mut TcpStream, bytes: impl AsRef<[u8]>, expected: impl AsRef<[u8]>) {
    stream.write_all(bytes.as_ref()).expect("sent");
    expect(stream, expected);
}

/// Everything until the server closes; a reset counts as closing.
pub fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Ok(_) => bytes,
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => bytes,
        Err(error) => panic!("not closed but {error}, after {:?}", String::from_utf8_lossy(&bytes)),
    }
}

/// A command as clients send it.
pub fn resp(arguments: &[&str]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", arguments.len()).into_bytes();
    for argument in arguments {
        write!(bytes, "${}\r\n{argument}\r\n", argument.len()).expect("a Vec takes all");
    }
    bytes
}

/// A bulk string as servers send it.
pub fn bulk(value: &str) -> String {
    format!("${}\r\n{value}\r\n", value.len())
}
