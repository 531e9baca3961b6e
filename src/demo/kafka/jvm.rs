//! A Java server in a folder of its own: its command line, its process, its end. What is served is the
//! business of the one who starts it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::ServerOptions;
use super::archive::Archive;
use super::jars::{self, Group};
use super::java;
use crate::demo::binaries;
use crate::demo::place::{self, PORT_ATTEMPTS, free_port};
use crate::demo::server::{Launch, Log, Manner, Server, Signal};
use crate::error::{Error, Kind, Result};

/// How long an orderly end may take.
const ENDS_WITHIN: Duration = Duration::from_secs(30);

/// What all our Java servers are started with. The log goes to stderr, which is ours.
const ALWAYS: [&str; 5] = [
    "-Djava.awt.headless=true",
    "-Djava.net.preferIPv4Stack=true",
    "-XX:-UsePerfData",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS",
];

/// Little time to start, few threads, little memory beside the heap.
const SMALL: [&str; 2] = ["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"];

/// A running or stopped Java server.
pub(super) struct Jvm {
    name: String,
    main: &'static str,
    manner: &'static Manner,
    folder: PathBuf,
    program: PathBuf,
    arguments: Vec<String>,
    archive: Option<Archive>,
    variables: Vec<(String, String)>,
    log: Log,
    server: Option<Server>,
}

impl Jvm {
    /// Sees to Java, the jars and a folder. Nothing is started yet.
    pub(super) async fn new(
        options: &ServerOptions,
        group: Group,
        main: &'static str,
        manner: &'static Manner,
    ) -> Result<Jvm> {
        let java = java::find(&options.env)?;
        let cache = binaries::cache_folder(&options.env, binaries::is_root())?;
        let jars = jars::files(&cache, group).await?;
        let folder =
            place::make_folder(&options.name, options.base.as_deref(), &options.env, None)?;
        let mut arguments: Vec<String> = ALWAYS.map(str::to_owned).into();
        if !options.measured {
            arguments.extend(SMALL.map(str::to_owned));
        }
        arguments.push(format!("-Xmx{}m", options.heap_mib));
        // the native parts of compression are unpacked there
        arguments.push(format!("-Djava.io.tmpdir={}", folder.display()));
        let jars: Vec<String> = jars.iter().map(|jar| jar.display().to_string()).collect();
        let class_path = jars.join(":");
        let archive = || Archive::new(&cache, &java, &class_path, &folder);
        let archive = (!options.measured).then(archive);
        arguments.extend(["-cp".to_owned(), class_path]);
        Ok(Jvm {
            name: options.name.clone(),
            main,
            manner,
            folder,
            program: java.program,
            arguments,
            archive,
            variables: options.variables.clone(),
            log: Log::default(),
            server: None,
        })
    }

    /// Starts for the first time, on so many free ports, with the properties that are made of them.
    pub(super) async fn start(
        &mut self,
        ports: usize,
        properties: impl Fn(&[u16]) -> Vec<(String, String)>,
    ) -> Result<Vec<u16>> {
        for attempt in 1.. {
            let ports = (0..ports).map(|_| free_port()).collect::<Result<Vec<u16>>>()?;
            match self.start_with(&properties(&ports)).await {
                Ok(()) => return Ok(ports),
                Err(error) if attempt == PORT_ATTEMPTS || !self.port_was_taken() => {
                    return Err(error);
                }
                Err(_) => tracing::debug!(?ports, "a port has just been taken"),
            }
        }
        Err(self.failed("no port is free"))
    }

    fn port_was_taken(&self) -> bool {
        self.log.tail(200).iter().any(|line| line.contains("Address already in use"))
    }

    /// Starts with these properties and waits until it is ready; nothing where it runs.
    pub(super) async fn start_with(&mut self, properties: &[(String, String)]) -> Result<()> {
        if self.is_running() {
            return Ok(());
        }
        self.log.clear();
        let file = self.folder.join("server.properties");
        let written = fs::write(&file, text(properties));
        written.map_err(|error| self.failed("its properties cannot be written").because(error))?;
        let mut arguments: Vec<String> = self.archive.iter().map(Archive::argument).collect();
        arguments.extend(self.arguments.iter().cloned());
        arguments.extend([self.main.to_owned(), file.display().to_string()]);
        let launch = Launch {
            manner: self.manner,
            program: &self.program,
            arguments: &arguments,
            variables: &self.variables,
            folder: &self.folder,
            account: None,
            log_file: Some(self.log_file()),
        };
        let server = Server::start(launch, &self.log).await;
        self.server = Some(server.map_err(|error| self.failed(&error.reason()))?);
        Ok(())
    }

    /// Ends it in order; by SIGKILL after half a minute.
    pub(super) async fn stop(&mut self) -> Result<()> {
        let Some(server) = self.server.as_mut() else { return Ok(()) };
        if server.stop(Signal::Terminate, ENDS_WITHIN).await {
            self.server = None;
            self.archive.iter().for_each(Archive::keep);
            return Ok(());
        }
        self.kill().await
    }

    /// Ends it by SIGKILL.
    pub(super) async fn kill(&mut self) -> Result<()> {
        let Some(server) = self.server.as_mut() else { return Ok(()) };
        if !server.stop(Signal::Kill, ENDS_WITHIN).await {
            return Err(self.failed("it does not end"));
        }
        self.server = None;
        Ok(())
    }

    pub(super) fn is_running(&mut self) -> bool {
        self.server.as_mut().is_some_and(|server| !server.ended())
    }

    /// The process above its own, whose only other child it is; none where it does not run.
    pub(super) fn pid(&self) -> Option<u32> {
        self.server.as_ref().map(Server::pid)
    }

    /// Its folder: the log, the data, the plugins.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where everything that it writes is kept while it lives, over restarts too.
    pub(super) fn log_file(&self) -> PathBuf {
        self.folder.join("server.log")
    }

    /// The last lines of its log since its start.
    pub(super) fn log_tail(&self, lines: usize) -> Vec<String> {
        self.log.tail(lines)
    }

    pub(super) fn failed(&self, what: &str) -> Error {
        Error::new(Kind::Config, format!("the {} for {}: {what}", self.manner.name, self.name))
    }
}

impl Drop for Jvm {
    fn drop(&mut self) {
        if let Some(server) = &mut self.server {
            server.stop_now();
        }
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            tracing::debug!(%error, folder = %self.folder.display(), "a server's folder stays");
        }
    }
}

/// The jars of a group, in our cache.
pub(super) async fn files(options: &ServerOptions, group: Group) -> Result<Vec<PathBuf>> {
    let cache = binaries::cache_folder(&options.env, binaries::is_root())?;
    jars::files(&cache, group).await
}

/// Ours and the caller's, of which the latter win.
pub(super) fn merged(ours: &[(&str, &str)], options: &ServerOptions) -> Vec<(String, String)> {
    let given = |name: &str| options.settings.iter().any(|(given, _)| given == name);
    let ours = ours.iter().filter(|(name, _)| !given(name));
    let ours = ours.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    ours.chain(options.settings.iter().cloned()).collect()
}

/// A file as `java.util.Properties` reads it.
fn text(properties: &[(String, String)]) -> String {
    let line =
        |(name, value): &(String, String)| format!("{name}={}\n", value.replace('\\', "\\\\"));
    properties.iter().map(line).collect()
}
