use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// The repository's root.
pub fn repository() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_owned()
}

/// The executable of that name: `GUILDHALL_BIN` for `guildhall`, or the one that lies beside the test's own.
///
/// # Errors
/// When it has not been built.
pub fn binary(name: &str) -> Result<PathBuf> {
    if name == "guildhall"
        && let Some(path) = std::env::var_os("GUILDHALL_BIN")
    {
        return Ok(path.into());
    }
    let own = std::env::current_exe()?;
    let found = own.ancestors().skip(1).map(|d| d.join(name)).find(|p| p.is_file());
    found.with_context(|| format!("`{name}` is not built; run `cargo build --bins`, or `make test`"))
}

/// The ONNX Runtime library.
///
/// # Errors
/// When it has not been fetched.
pub fn onnxruntime() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("ORT_DYLIB_PATH").filter(|p| !p.is_empty()) {
        return Ok(path.into());
    }
    let folder = repository().join(".guildhall/onnxruntime/lib");
    let entries = std::fs::read_dir(&folder).with_context(|| {
        format!(
            "there is no ONNX Runtime library in {}; run `make deps`, or set ORT_DYLIB_PATH",
            folder.display()
        )
    })?;
    let mut files = entries.filter_map(|e| e.ok().map(|e| e.path()));
    let is_library = |p: &PathBuf| p.file_name().is_some_and(|n| n.to_string_lossy().contains("onnxruntime"));
    files.find(is_library).with_context(|| format!("{} holds no library; run `make deps`", folder.display()))
}

/// A running `guildhall serve` with its own folder and free ports; ended when dropped.
#[derive(Debug)]
pub struct Gateway {
    child: Child,
    folder: PathBuf,
    owns_folder: bool,
    reader: Option<JoinHandle<()>>,
    log: Arc<Mutex<String>>,
    /// The data plane's base URL, without `/v1`.
    pub url: String,
    /// The admin plane's base URL.
    pub admin: String,
}

/// The admin token of every test gateway.
const TOKEN: &str = "test-admin-token-0123456789";

impl Gateway {
    /// Starts a gateway with this configuration in a folder of its own. `data.listen` and `store` are set here
    /// and must not be in the text; a text that begins with `admin: ` needs [`Gateway::TOKEN`] in it.
    ///
    /// # Errors
    /// When it does not start; the error holds its output.
    pub fn start(config: &str) -> Result<Self> {
        static COUNT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        let n = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("guildhall-e2e-{}-{n}", std::process::id()));
        std::fs::create_dir_all(&folder)?;
        let mut gateway = Self::start_in(&folder, config)?;
        gateway.owns_folder = true;
        Ok(gateway)
    }

    /// Starts a gateway in a given folder, whose store it takes over.
    ///
    /// # Errors
    /// When it does not start; the error holds its output.
    pub fn start_in(folder: &Path, config: &str) -> Result<Self> {
        Self::start_with_tokens(folder, config, "")
    }

    /// The same with more admin tokens, in the form of `admin.tokens`' items.
    ///
    /// # Errors
    /// When it does not start; the error holds its output.
    pub fn start_with_tokens(folder: &Path, config: &str, tokens: &str) -> Result<Self> {
        let text = whole(folder, config).replace("tokens: []", &format!("tokens: [{tokens}]"));
        Self::spawn(serve(folder, &text)?, folder)
    }

    /// Starts a process with one role of a gateway in a given folder. Without a data plane `url` is empty.
    ///
    /// # Errors
    /// When it does not start; the error holds its output.
    pub fn start_role(folder: &Path, config: &str, role: &str) -> Result<Self> {
        let mut command = serve(folder, &whole(folder, config))?;
        command.args(["--role", role]);
        Self::spawn(command, folder)
    }

    fn spawn(mut command: Command, folder: &Path) -> Result<Self> {
        let log = std::fs::File::create(folder.join("stderr.log"))?;
        let mut child = command.stdout(Stdio::piped()).stderr(log).spawn()?;
        let stdout = child.stdout.take().context("no standard output")?;
        let lines = Arc::new(Mutex::new(String::new()));
        let sink = lines.clone();
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let mut text = sink.lock().unwrap_or_else(PoisonError::into_inner);
                text.push_str(&line);
                text.push('\n');
            }
        });
        let mut gateway = Self {
            child,
            folder: folder.to_owned(),
            owns_folder: false,
            reader: Some(reader),
            log: lines,
            url: String::new(),
            admin: String::new(),
        };
        let started = Instant::now();
        loop {
            let said = gateway.said();
            let after = |label: &str| {
                let line = said.lines().find(|l| l.trim_start().starts_with(label))?;
                Some(line.trim_start().strip_prefix(label)?.trim().to_owned())
            };
            if (said.contains("try it:") || said.contains("no data plane"))
                && let Some(admin) = after("admin ")
            {
                let chat = after("chat ").unwrap_or_default();
                chat.trim_end_matches("/v1").clone_into(&mut gateway.url);
                admin.trim_end_matches("/admin/v1").clone_into(&mut gateway.admin);
                gateway.wait_until_ready(started)?;
                return Ok(gateway);
            }
            if let Some(status) = gateway.child.try_wait()? {
                bail!("the gateway ended with {status}:\n{}{}", gateway.said(), gateway.errors());
            }
            if started.elapsed() > Duration::from_mins(2) {
                bail!("the gateway did not start:\n{}{}", gateway.said(), gateway.errors());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Asks the readiness probe until it says yes; with TLS on the admin plane, only that it listens.
    fn wait_until_ready(&self, started: Instant) -> Result<()> {
        let Some(address) = self.admin.strip_prefix("http://") else { return Ok(()) };
        while started.elapsed() < Duration::from_mins(2) {
            if let Ok(mut socket) = std::net::TcpStream::connect(address) {
                let request = format!("GET /readyz HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
                let mut answer = String::new();
                socket.write_all(request.as_bytes())?;
                if socket.read_to_string(&mut answer).is_ok() && answer.starts_with("HTTP/1.1 200") {
                    return Ok(());
                }
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        bail!("the gateway did not become ready:\n{}{}", self.said(), self.errors());
    }

    /// Replaces the configuration file by another one, as an editor does: written beside it and moved over.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn rewrite(&self, config: &str) -> Result<()> {
        let new = self.folder.join("guildhall.yaml.new");
        std::fs::write(&new, whole(&self.folder, config))?;
        Ok(std::fs::rename(new, self.folder.join("guildhall.yaml"))?)
    }

    /// What it wrote to standard output so far.
    pub fn said(&self) -> String {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What it logged so far.
    pub fn errors(&self) -> String {
        std::fs::read_to_string(self.folder.join("stderr.log")).unwrap_or_default()
    }

    /// The URL of a data-plane path such as `chat/completions`.
    pub fn v1(&self, path: &str) -> String {
        format!("{}/v1/{path}", self.url)
    }

    /// The URL of an admin API path such as `experts`.
    pub fn admin_v1(&self, path: &str) -> String {
        format!("{}/admin/v1/{path}", self.admin)
    }

    /// The value of the `authorization` header for the admin API.
    pub fn bearer(&self) -> String {
        format!("Bearer {TOKEN}")
    }

    /// The admin API's token.
    pub const TOKEN: &'static str = TOKEN;

    /// The same, of this gateway.
    pub fn token(&self) -> &'static str {
        TOKEN
    }

    /// Its folder, with its configuration file and its store.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Kills it, as `kill -9` does, and waits until it is gone.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Sends SIGTERM, as an orchestrator does, and gives the exit code.
    ///
    /// # Errors
    /// When it does not end within 60 seconds.
    pub fn terminate(&mut self) -> Result<Option<i32>> {
        self.signal("TERM")?;
        self.wait()
    }

    /// Sends a signal by name.
    ///
    /// # Errors
    /// When `kill` fails.
    pub fn signal(&self, name: &str) -> Result<()> {
        let status = Command::new("kill").arg(format!("-{name}")).arg(self.pid().to_string()).status()?;
        if status.success() { Ok(()) } else { bail!("kill -{name} failed") }
    }

    /// Waits for its end and gives the exit code.
    ///
    /// # Errors
    /// When it does not end within 60 seconds.
    pub fn wait(&mut self) -> Result<Option<i32>> {
        let started = Instant::now();
        while started.elapsed() < Duration::from_mins(1) {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status.code());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        bail!("the gateway did not end:\n{}", self.errors())
    }
}

/// The command that serves with this configuration.
fn serve(folder: &Path, config: &str) -> Result<Command> {
    let file = folder.join("guildhall.yaml");
    std::fs::write(&file, config)?;
    let mut command = Command::new(binary("guildhall")?);
    command.arg("serve").arg("--config").arg(&file).current_dir(folder);
    if let Ok(library) = onnxruntime() {
        command.env("ORT_DYLIB_PATH", library);
    }
    Ok(command)
}

/// A configuration with what every test gateway needs.
fn whole(folder: &Path, config: &str) -> String {
    let bundle = repository().join("router-models/default");
    let admin = format!("admin: {{listen: '127.0.0.1:0', token: {TOKEN}, tokens: []}}\n");
    let text = format!(
        "{}store: {{path: '{}'}}\n{}{}{config}\n",
        if config.starts_with("admin: ") { "" } else { &admin },
        folder.join("store.redb").display(),
        // The mocks of these tests are on this machine.
        if config.contains("upstream:") { "" } else { "upstream: {allow_private: ['127.0.0.0/8']}\n" },
        if config.contains("\nrouter:") || config.starts_with("router:") {
            String::new()
        } else {
            format!("router: {{bundle: '{}'}}\n", bundle.display())
        }
    );
    if config.contains("data:") { text } else { format!("data: {{listen: '127.0.0.1:0'}}\n{text}") }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
        if self.owns_folder && !std::thread::panicking() {
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }
}
