//! One build: which image and command it takes, its guest, and what may come out of it.
use super::{BuildParts, LiveLog};
use crate::Executor;
use crate::pool::Reserved;
use nova_domain::{
    Build, BuildKind, CodeHash, FunctionConfig, FunctionErrorKind, FunctionName, Limits, Mode,
    NetworkPolicy, RequestId,
};
use nova_proto::{ExecReport, FunctionSetup, LogLine};
use nova_vm::images::code::{UNPACKED_MAX_BYTES, canonicalise_result};
use nova_vm::images::{BuildRecipe, BuilderRecord};
use nova_vm::{ExecError, ExecRequest, MicroVm, VmDriver, VmId, VmSpec};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use tokio::sync::mpsc;
use uuid::Uuid;

/// Processors of a build: compilers use two well, and more would be taken from functions.
const VCPUS: u32 = 2;
/// Size of the directory for the result, MiB: the most that code may be, and room for one that is not.
const OUT_MB: u32 = 260;
/// Most bytes of a result on its way: the most that code may be, with the headers of as many files.
const RESULT_MAX_BYTES: usize = UNPACKED_MAX_BYTES as usize + 64 * 1024 * 1024;
/// Lines of the log between the guest and its readers.
const LINES_IN_FLIGHT: usize = 64;
/// Lines of the log that an error quotes, and bytes of them: the first of many mistakes is in the log.
const QUOTED_LINES: usize = 20;
/// See [`QUOTED_LINES`].
const QUOTED_BYTES: usize = 4096;

/// A build that is possible here.
pub(super) struct Job<'a> {
    driver: Arc<dyn VmDriver>,
    executor: Executor,
    function: &'a FunctionName,
    source: &'a CodeHash,
    builder: BuilderRecord,
    command: Vec<String>,
    env: BTreeMap<String, String>,
    network: NetworkPolicy,
    /// Where the program that is built goes in the code; `None` where the result is all of the code.
    program: Option<String>,
}

impl<'a> Job<'a> {
    /// Looks up what the build takes.
    pub fn new(
        parts: &BuildParts,
        function: &'a FunctionName,
        build: &'a Build,
    ) -> Result<Self, String> {
        let config = &build.config;
        let builder = parts.catalog.builder_for(&config.runtime).ok_or_else(|| {
            let runtime = &config.runtime;
            format!("no builder for {runtime} is installed any more; `nova runtime add --builder {runtime}`")
        })?;
        let recipe = &builder.build;
        let missing =
            || format!("the builder for {} is older than this nova; add it again", config.runtime);
        let mut env = recipe.env.clone();
        let (mut network, mut program) = (NetworkPolicy::None, None);
        let command = match build.kind {
            BuildKind::Compile => {
                program = Some(program_path(config));
                recipe.compile.as_ref().ok_or_else(missing)?.command.clone()
            }
            BuildKind::Dependencies => {
                network = parts.network.policy.clone();
                env.extend(parts.network.env.clone());
                recipe.dependencies.as_ref().ok_or_else(missing)?.command.clone()
            }
            BuildKind::Precompile => {
                let words = &recipe.precompile.as_ref().ok_or_else(missing)?.command;
                words.iter().map(|word| word.replace("{handler}", &config.handler)).collect()
            }
        };
        let (driver, executor) = (Arc::clone(&parts.driver), parts.executor.clone());
        let source = &build.source;
        Ok(Self { driver, executor, function, source, builder, command, env, network, program })
    }

    /// A hash of all that the result depends on.
    pub fn key(&self) -> String {
        let depends_on =
            (self.source, &self.builder.digest, &self.command, &self.env, &self.program);
        // Tuples of plain data always serialize.
        hex::encode(Sha256::digest(serde_json::to_vec(&depends_on).unwrap_or_default()))
    }

    /// Runs it, and returns the canonical archive of the result; or says why there is none.
    pub async fn run(&self, log: &LiveLog) -> Result<Vec<u8>, String> {
        let _room = self.room(log).await;
        let guest = self.driver.boot(self.spec()).await;
        let guest = guest.map_err(|error| format!("the build was not started: {error}"))?;
        let result = self.run_in(guest.as_ref(), log).await;
        guest.stop().await;
        let (tar, program) = (result?, self.program.clone());
        let read =
            tokio::task::spawn_blocking(move || canonicalise_result(&tar, program.as_deref()))
                .await;
        let read = read.map_err(|error| format!("the result was not read: {error}"))?;
        read.map_err(|error| format!("the result of the build is not accepted: {error}"))
    }

    /// Waits until there is room for the guest beside those of functions.
    async fn room(&self, log: &LiveLog) -> Reserved {
        let memory_mb = self.builder.build.memory_mb;
        let all_mb = u64::from(memory_mb) + u64::from(self.driver.overhead_mb(memory_mb));
        let mut room = pin!(self.executor.reserve(all_mb));
        tokio::select! {
            biased;
            room = &mut room => room,
            () = std::future::ready(()) => {
                log.note("the build waits until functions leave memory for it");
                room.await
            }
        }
    }

    async fn run_in(&self, guest: &dyn MicroVm, log: &LiveLog) -> Result<Vec<u8>, String> {
        let lost = |error: ExecError| format!("the guest of the build failed: {error}");
        let report = self.compile(guest, log).await.map_err(lost)?;
        if let Some(error) = report.error {
            return Err(match error.kind {
                FunctionErrorKind::FunctionExited => {
                    let what = error.message.split(';').next().unwrap_or_default();
                    quoting(&what.replacen("the function", "the build", 1), log)
                }
                FunctionErrorKind::Timeout => {
                    let limit = self.builder.build.timeout_s;
                    quoting(&format!("the build took longer than {limit} s"), log)
                }
                FunctionErrorKind::OutOfMemory => {
                    let limit = self.builder.build.memory_mb;
                    quoting(&format!("the build ran out of memory: its limit is {limit} MiB"), log)
                }
                _ => quoting(&error.message.replacen("the function", "the build", 1), log),
            });
        }
        guest.export(RESULT_MAX_BYTES).await.map_err(lost)
    }

    /// Runs the command, its lines going to `log`.
    async fn compile(&self, guest: &dyn MicroVm, log: &LiveLog) -> Result<ExecReport, ExecError> {
        let request = ExecRequest {
            request_id: RequestId(Uuid::now_v7()),
            attempt: 1,
            timeout_ms: u64::from(self.builder.build.timeout_s) * 1000,
            traceparent: None,
            input: RawValue::NULL.to_owned(),
        };
        let (events, mut lines) = mpsc::channel::<LogLine>(LINES_IN_FLIGHT);
        let follow = async {
            while let Some(line) = lines.recv().await {
                log.line(line.text);
            }
        };
        let (report, ()) = tokio::join!(guest.exec(request, events), follow);
        report
    }

    fn spec(&self) -> VmSpec {
        let BuildRecipe { memory_mb, .. } = &self.builder.build;
        VmSpec {
            id: VmId::from_random(rand::random()),
            function: self.function.clone(),
            image_digest: self.builder.digest.clone(),
            code_hash: self.source.clone(),
            layers_hash: None,
            memory_mb: *memory_mb,
            limits: Limits { vcpus: VCPUS, ..Limits::default() },
            network: self.network.clone(),
            setup: FunctionSetup {
                name: self.function.as_str().to_owned(),
                version: "build".into(),
                mode: Mode::Process,
                command: as_call(&self.command),
                env: self.env.clone(),
                secrets: Vec::new(),
                memory_mb: *memory_mb,
                tmp_mb: 0,
                out_mb: OUT_MB,
                handler: self.program.clone().unwrap_or_else(|| "handler".into()),
                instance_concurrency: 1,
                own_image: None,
            },
        }
    }
}

/// A command as a call in `process` mode: all that it writes is log, and its result is its status.
fn as_call(command: &[String]) -> Vec<String> {
    let shell = ["/bin/sh", "-c", "\"$@\" 1>&2 && echo null", "build"];
    shell.into_iter().map(str::to_owned).chain(command.iter().cloned()).collect()
}

/// Where the guest looks for the program of a compiled language.
fn program_path(config: &FunctionConfig) -> String {
    match config.mode {
        Mode::Process | Mode::Persistent | Mode::Http => config.handler.clone(),
        Mode::Lambda => "bootstrap".into(),
    }
}

/// What happened, with the end of what the build had to say.
fn quoting(what: &str, log: &LiveLog) -> String {
    match log.tail(QUOTED_LINES, QUOTED_BYTES).join("\n").trim() {
        "" => what.to_owned(),
        tail => format!("{what}:\n{tail}"),
    }
}
