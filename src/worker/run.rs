//! Runs the command of a task.

use crate::base::chain;
use crate::celery::CeleryError;
use crate::celery::publish::{self, Outgoing};
use crate::celery::requests::Revocation;
use crate::celery::result::{Child, State, TaskResult};
use crate::celery::tasks::TimeLimits;
use crate::component::Target;
use crate::domain::command::{Amendment, Backup, Command, Restore};
use crate::domain::component::ComponentName;
use crate::domain::manifest::VerifyLevel;
use crate::domain::report::{AmendReport, FullBackupReport, VerifyReport};
use crate::domain::signature::SignatureError;
use crate::engine::{EngineError, PruneRequest, RestoreRequest, Run, VerifyRequest};
use crate::worker::outcome::Outcome;
use crate::worker::progress::Reporter;
use crate::worker::task::Task;
use crate::worker::watch;
use futures_util::FutureExt;
use jiff::Timestamp;
use serde_json::{Map, json};
use std::{
    collections::BTreeMap,
    future::pending,
    panic::AssertUnwindSafe,
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

impl Task<'_> {
    /// Runs the task to its end, or until it is terminated or a time limit is over; then the task is stopped cleanly:
    /// child processes killed, partial files removed.
    pub(super) async fn run(&self) -> Outcome {
        let cancel = self.shared.stop.abandon.child_token();
        let limits = self.time_limits();
        let work = self.work(&cancel);
        tokio::pin!(work);
        let cut = tokio::select! {
            biased;
            outcome = &mut work => return outcome,
            () = self.request.stop().cancelled() => {
                let signal = match self.request.revocation() {
                    Some(Revocation::Terminated(signal)) => Some(signal),
                    _ => None,
                };
                tracing::warn!(signal, "terminated by remote control");
                Outcome::Revoked { signal }
            }
            limit = over(limits.soft) => Outcome::out_of_time(&self.message.task, limit, true),
            limit = over(limits.hard) => Outcome::out_of_time(&self.message.task, limit, false),
        };
        cancel.cancel();
        match work.await {
            Outcome::Interrupted => cut,
            ended => ended, // the task ended before it was stopped
        }
    }

    /// Returns the time limits of the message, or else those of the task.
    fn time_limits(&self) -> TimeLimits {
        let of_task = self.shared.node.tasks.time_limits(&self.message.task);
        TimeLimits {
            soft: self.message.soft_limit.or(of_task.soft),
            hard: self.message.hard_limit.or(of_task.hard),
        }
    }

    async fn work(&self, cancel: &CancellationToken) -> Outcome {
        let message = self.message;
        let began = Instant::now();
        let command = match Command::parse(&message.task, &message.args, &message.kwargs) {
            Ok(command) => command,
            Err(err) => return Outcome::of_invalid(&message.task, &err),
        };
        if let Err(err) = self.authorise(&command).await {
            return Outcome::of_unsigned(&message.task, err);
        }
        let outcome = AssertUnwindSafe(self.execute(command, cancel)).catch_unwind().await;
        self.shared.metrics.task_ended(watch::known(&message.task), began.elapsed());
        outcome.unwrap_or_else(|_| Outcome::of_panic(&message.task))
    }

    /// Checks the signature of a command that deletes or overwrites data, if a key is set.
    async fn authorise(&self, command: &Command) -> Result<(), SignatureError> {
        if !command.must_be_signed() {
            return Ok(());
        }
        self.shared.orders.accept(self.message, Timestamp::now()).await
    }

    async fn execute(&self, command: Command, cancel: &CancellationToken) -> Outcome {
        let (engine, task) = (&self.shared.engine, self.message.task.as_str());
        match command {
            Command::Backup(order) => self.back_up(&order, cancel).await,
            Command::FullBackup { label, pin } => self.dispatch(label, pin).await,
            Command::CleanUp { component, retention_days, dry_run } => {
                let request = PruneRequest { component, retention_days, dry_run, trust_clock: false };
                let run = Run { task_id: Some(self.message.id.clone()), ..Run::default() };
                let done = unless_cancelled(engine.prune(request, &run), cancel).await;
                Outcome::of_engine(task, done, |report| json!(report))
            }
            Command::Verify { component, backup, drill } => {
                let level = if drill { VerifyLevel::Drill } else { VerifyLevel::Decode };
                let request = VerifyRequest { component, backup, level };
                let run = self.begin(cancel).await;
                let done = Box::pin(self.verify(&request, &run)).await;
                Outcome::of_engine(task, done, |report| json!(report))
            }
            Command::Amend { backup, amendment } => {
                let run = self.begin(cancel).await;
                let done = self.update_manifest(&backup, amendment, &run).await;
                Outcome::of_engine(task, done, |report| json!(report))
            }
            Command::List { component } => {
                let done = unless_cancelled(engine.listing(component), cancel).await;
                Outcome::of_engine(task, done, |listing| json!(listing))
            }
            // The future of a restore is by far the largest, and rare, so it is boxed.
            Command::Restore(order) => Box::pin(self.restore(&order, cancel)).await,
            Command::Undo { component } => {
                let run = self.begin(cancel).await;
                let done =
                    self.reporter(component).during(&run.meter, Box::pin(engine.undo(component, &run))).await;
                Outcome::of_engine(task, done, |report| json!(report))
            }
            Command::Ping => Outcome::Success { value: json!("pong"), children: Vec::new() },
        }
    }

    async fn back_up(&self, order: &Backup, cancel: &CancellationToken) -> Outcome {
        let run = self.begin(cancel).await;
        let reporter = self.reporter(order.component);
        let done = reporter.during(&run.meter, self.shared.engine.backup(order, &run)).await;
        Outcome::of_engine(&self.message.task, done, |report| json!(report))
    }

    /// Verifies one component after the other. An error in one component does not keep the others from being
    /// verified.
    async fn verify(&self, request: &VerifyRequest, run: &Run) -> Result<VerifyReport, EngineError> {
        let engine = &self.shared.engine;
        let (mut report, mut failed) = (VerifyReport::default(), None);
        for component in engine.to_verify(request).await? {
            let work = engine.verify(component, request, run);
            match self.reporter(component).during(&run.meter, work).await {
                Ok(results) => report.results.extend(results),
                Err(EngineError::Cancelled) => return Err(EngineError::Cancelled),
                Err(err) => failed = failed.or(Some(err)),
            }
        }
        let problems = report.damage();
        if !problems.is_empty() {
            return Err(EngineError::Damaged { problems });
        }
        failed.map_or(Ok(report), Err)
    }

    /// Pins, unpins or accepts a backup, after waiting for other runs on the component.
    async fn update_manifest(
        &self,
        backup: &str,
        amendment: Amendment,
        run: &Run,
    ) -> Result<Option<AmendReport>, EngineError> {
        let engine = &self.shared.engine;
        let found = engine.find(backup, None).await?;
        let (id, component) = (found.backup_id.as_str(), found.component());
        let work = async {
            match amendment {
                Amendment::Pin(pinned) => engine.pin(id, Some(component), pinned, run).await,
                Amendment::Accept => engine.accept(id, Some(component), run).await,
            }
        };
        let amended = self.reporter(component).during(&run.meter, work).await?;
        Ok(amended.manifest().map(AmendReport::new))
    }

    /// Stores STARTED for a run that may take long.
    async fn begin(&self, cancel: &CancellationToken) -> Run {
        let message = self.message;
        if let Some(backend) = self.backend() {
            let started = TaskResult::started(&message.id, &self.shared.options.node).of(message);
            // STARTED is only informative, so a failure is ignored; the final result is stored with retries.
            let _ = backend.offer(&started).await;
        }
        self.shared.metrics.task(watch::known(&message.task), State::Started.as_str());
        Run {
            task_id: Some(message.id.clone()),
            cancel: cancel.clone(),
            wait: true,
            visibility_timeout: self.shared.options.visibility_timeout,
            ..Run::default()
        }
    }

    async fn restore(&self, order: &Restore, cancel: &CancellationToken) -> Outcome {
        let run = self.begin(cancel).await;
        let request = RestoreRequest {
            component: order.component,
            reference: order.backup.clone(),
            without: order.without.clone(),
            target: order.option.clone().map_or(Target::Live, Target::Custom),
            without_rights: order.without_rights,
        };
        let reporter = self.reporter(order.component);
        let done = reporter.during(&run.meter, self.shared.engine.restore(&request, &run)).await;
        Outcome::of_engine(&self.message.task, done, |report| json!(report))
    }

    /// Returns the reporter of this task's progress.
    pub(super) fn reporter(&self, component: ComponentName) -> Reporter<'_> {
        let Self { shared, message, .. } = self;
        let (task_id, retries) = (&*message.id, message.retries);
        Reporter { backend: self.backend(), metrics: &shared.metrics, task_id, retries, component }
    }

    /// Sends one backup task for each configured component, as children of this task.
    ///
    /// The ids of the children are derived from this task's id, so that a repeated delivery sends the same tasks
    /// again and not others.
    async fn dispatch(&self, label: Option<String>, pin: bool) -> Outcome {
        let message = self.message;
        let child = |component: ComponentName| {
            let id = Uuid::new_v5(&Uuid::NAMESPACE_OID, format!("{}/{component}", message.id).as_bytes());
            let mut kwargs = Map::from_iter([("set_id".to_owned(), json!(message.id))]);
            if let Some(label) = &label {
                kwargs.insert("label".to_owned(), json!(label));
            }
            if pin {
                kwargs.insert("pin".to_owned(), json!(true));
            }
            let call = Outgoing::new(Backup::task(component), &message.queue)
                .with_id(&id.to_string())
                .kwargs(kwargs)
                .child_of(&message.root_id, &message.id);
            (component, call)
        };
        let (components, calls): (Vec<_>, Vec<_>) =
            self.shared.engine.configured().into_iter().map(child).unzip();
        if calls.is_empty() {
            return Outcome::nothing_configured(&message.task);
        }
        let sent =
            publish::publish(&self.shared.broker, &self.shared.keys, &calls, &self.shared.stop.silence);
        match sent.await {
            Ok(()) => {}
            Err(err @ CeleryError::Stopped { .. }) => {
                tracing::warn!(error = %chain(&err), "cannot dispatch the full backup");
                return Outcome::Interrupted;
            }
            Err(err) => return Outcome::not_sent(&message.task, &err),
        }
        let children: Vec<String> = calls.iter().map(|call| call.id().to_owned()).collect();
        let task_ids: BTreeMap<_, _> = components.into_iter().zip(children.clone()).collect();
        let report =
            FullBackupReport { status: "initiated".to_owned(), set_id: message.id.clone(), task_ids };
        let children = children.into_iter().map(Child::Task).collect();
        Outcome::Success { value: json!(report), children }
    }
}

/// Runs work that may be dropped at any point, because the next run finishes the steps that were noted before it.
async fn unless_cancelled<T>(
    work: impl Future<Output = Result<T, EngineError>>,
    cancel: &CancellationToken,
) -> Result<T, EngineError> {
    cancel.run_until_cancelled(work).await.unwrap_or(Err(EngineError::Cancelled))
}

/// Waits until the time limit is over, or for ever if there is none.
async fn over(limit: Option<Duration>) -> Duration {
    match limit {
        Some(limit) => {
            tokio::time::sleep(limit).await;
            limit
        }
        None => pending().await,
    }
}
