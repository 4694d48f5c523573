// SPDX-License-Identifier: Apache-2.0

//! Programs other people wrote, run in pods: nginx, Python, Go.
//!
//! Knows nothing of the mesh. Invariant: a server listens before its constructor returns, and is
//! gone after its drop.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Mutex,
    time::Duration,
};

use crate::{
    command::{self, run_ok},
    pod::Pod,
    topology::Lab,
    wait,
};

/// A server program in a pod.
pub struct Server {
    child: Child,
    log: PathBuf,
}

impl Server {
    /// Starts `command`, which runs in `pod`, and waits until it listens on `port`; its log is
    /// written to `directory`.
    #[track_caller]
    pub(crate) fn start(pod: &Pod, port: u16, mut command: Command, directory: &Path) -> Self {
        let log = directory.join("log");
        let output = File::create(&log).expect("the lab's directory can be written");
        let errors = output.try_clone().expect("a file can be duplicated");
        command.stdin(Stdio::null()).stdout(output).stderr(errors);
        let child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
        let mut server = Self { child, log };
        wait::until(
            &format!("a server on {port} of {}", pod.name),
            wait::PATIENCE,
            || {
                if let Ok(Some(status)) = server.child.try_wait() {
                    panic!("{command:?} ended with {status}: {}", server.log());
                }
                if listens(pod, port) {
                    Ok(())
                } else {
                    Err(server.log())
                }
            },
        );
        server
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it wrote.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        command::stop(&mut self.child, Duration::from_secs(2));
    }
}

/// Whether something listens on `port` in `pod`, without connecting to it.
pub fn listens(pod: &Pod, port: u16) -> bool {
    let wanted = format!(":{port:04X}");
    pod.run(|| {
        ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"]
            .iter()
            .any(|table| {
                let sockets = fs::read_to_string(table).unwrap_or_default();
                sockets.lines().any(|line| {
                    let mut columns = line.split_whitespace().skip(1);
                    let local = columns.next().unwrap_or_default();
                    local.ends_with(&wanted) && columns.nth(1) == Some("0A")
                })
            })
    })
}

#[track_caller]
fn directory(lab: &Lab, pod: &Pod, program: &str) -> PathBuf {
    let directory = lab.directory().join(format!("{program}-{}", pod.name));
    fs::create_dir_all(&directory).expect("the lab's directory can be written");
    directory
}

/// nginx: answers every path with the pod's name and version, and says its peer in `X-Peer`.
#[track_caller]
pub fn nginx(lab: &Lab, pod: &Pod, port: u16) -> Server {
    nginx_with(lab, pod, port, "", "")
}

/// As [`nginx`]; `listen` are further words of its `listen`, `server` further lines about its server.
#[track_caller]
pub fn nginx_with(lab: &Lab, pod: &Pod, port: u16, listen: &str, server: &str) -> Server {
    let directory = directory(lab, pod, "nginx");
    let version = pod.label("version");
    let configuration = format!(
        "daemon off; master_process off; worker_processes 1; pid {dir}/pid; user root;\n\
         error_log stderr warn;\n\
         events {{ worker_connections 4096; }}\n\
         http {{\n\
           access_log off; keepalive_requests 1000000;\n\
           client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy;\n\
           fastcgi_temp_path {dir}/fastcgi; uwsgi_temp_path {dir}/uwsgi;\n\
           scgi_temp_path {dir}/scgi; client_max_body_size 0;\n\
           server {{\n\
             listen {port} {listen}; listen [::]:{port} {listen}; {server}\n\
             add_header X-Peer $remote_addr; add_header X-Version {version:?};\n\
             location / {{ return 200 \"{name} {version}\\n\"; }}\n\
             location /files/ {{ alias {dir}/files/; dav_methods PUT; create_full_put_path on; }}\n\
           }}\n\
         }}\n",
        dir = directory.display(),
        name = pod.name,
    );
    let file = directory.join("nginx.conf");
    fs::write(&file, configuration).expect("the lab's directory can be written");
    let mut command = pod.command("nginx");
    command.arg("-c").arg(&file).args(["-e", "stderr"]);
    Server::start(pod, port, command, &directory)
}

/// Python's `http.server` over a directory with the file `hello`.
#[track_caller]
pub fn python(lab: &Lab, pod: &Pod, port: u16) -> Server {
    let directory = directory(lab, pod, "python");
    let files = directory.join("files");
    fs::create_dir_all(&files).expect("the lab's directory can be written");
    fs::write(files.join("hello"), format!("{}\n", pod.name)).expect("just made");
    let mut command = pod.command(PYTHON);
    command.args([
        "-u",
        "-m",
        "http.server",
        &port.to_string(),
        "--bind",
        "::",
        "--directory",
    ]);
    command.arg(&files);
    Server::start(pod, port, command, &directory)
}

/// The distribution's own Python: what is first in PATH may be a wrapper.
pub const PYTHON: &str = "/usr/bin/python3";

/// A Go server: `net/http` on `port`, gRPC and h2c alike (see `tests/go/main.go`).
#[track_caller]
pub fn go(lab: &Lab, pod: &Pod, port: u16) -> Server {
    let directory = directory(lab, pod, "go");
    let mut command = pod.command(go_program());
    command.args(["serve", &format!(":{port}"), &pod.name]);
    Server::start(pod, port, command, &directory)
}

/// Istio's echo server in a pod: HTTP on `port`, and HBONE on 15008 with the certificate and key
/// in `credentials` (`certificate.pem`, `key.pem`).
#[track_caller]
pub fn istio_echo(lab: &Lab, pod: &Pod, port: u16, credentials: &Path) -> Server {
    let directory = directory(lab, pod, "istio-echo");
    let mut command = pod.command(istio_program("server"));
    command.args([
        "--port",
        &port.to_string(),
        "--hbone",
        "15008",
        "--tls",
        "15008",
    ]);
    command
        .arg("--crt")
        .arg(credentials.join("certificate.pem"));
    command.arg("--key").arg(credentials.join("key.pem"));
    Server::start(pod, port, command, &directory)
}

/// The path of the Go test program, built when its source changed.
///
/// # Panics
/// When there is no Go, or it does not build.
#[track_caller]
pub fn go_program() -> PathBuf {
    go_build("go", &["."]).join("mesh-apps")
}

/// The path of Istio's echo `client` or `server`, built from the published Go module.
///
/// # Panics
/// When there is no Go, no network the first time, or it does not build.
#[track_caller]
pub fn istio_program(name: &str) -> PathBuf {
    let echo = "istio.io/istio/pkg/test/echo/cmd";
    go_build(
        "istio-echo",
        &[&format!("{echo}/client"), &format!("{echo}/server")],
    )
    .join(name)
}

/// Builds Go packages of a directory beside this crate's manifest; returns where they are. Go's
/// own cache makes this a matter of a second when nothing changed.
#[track_caller]
fn go_build(source: &str, packages: &[&str]) -> PathBuf {
    static BUILDING: Mutex<()> = Mutex::new(());
    let guard = BUILDING.lock();
    let home = std::env::var_os("HOME").expect("HOME is set");
    let target = Path::new(&home)
        .join(".cache/mesh-agent/programs")
        .join(source);
    fs::create_dir_all(&target).expect("the cache directory can be written");
    let mut build = Command::new(go_command());
    build.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(source));
    build.args(["build", "-mod=mod", "-buildvcs=false", "-o"]);
    build.arg(format!("{}/", target.display())).args(packages);
    build.env("CGO_ENABLED", "0").env_remove("GOFLAGS");
    run_ok(&mut build);
    drop(guard);
    target
}

/// `go` of PATH, else where the official archive puts it.
fn go_command() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places = std::env::split_paths(&path).map(|place| place.join("go"));
    places
        .find(|go| go.is_file())
        .unwrap_or_else(|| PathBuf::from("/usr/local/go/bin/go"))
}
