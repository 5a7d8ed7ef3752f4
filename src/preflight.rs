//! The checks of every dependency before it is needed: one line each, with the remedy.

mod destinations;
mod queues;
mod watch;

pub use watch::watch;

use crate::app;
use crate::base::access::{AccessProblem, Need, check_folder};
use crate::base::{advice, chain};
use crate::celery::CeleryError;
use crate::celery::client::{Client, ConnectOptions};
use crate::component::{Component, ComponentError};
use crate::config::Config;
use crate::domain::component::ComponentName;
use crate::worker::Options;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// No look takes longer.
const PATIENCE: Duration = Duration::from_secs(10);

/// The result of one look at a dependency.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Check {
    /// The name of the dependency.
    pub name: String,
    /// True if the dependency is fit.
    pub ok: bool,
    /// The finding, in one line.
    pub detail: String,
    /// The remedy; empty when the dependency is fit.
    pub fix: String,
}

impl Check {
    fn new(name: &str, found: Result<String, String>, fix: &str) -> Self {
        let (ok, detail) = match found {
            Ok(detail) => (true, detail),
            Err(detail) => (false, detail),
        };
        Self { name: name.to_owned(), ok, detail, fix: if ok { String::new() } else { fix.to_owned() } }
    }
}

/// Looks at everything that the settings name. Changes nothing, but that the backup folder is made; what it
/// writes into a destination to try it out is removed.
pub async fn run(config: &Config) -> Vec<Check> {
    let mut checks = destinations::all(config).await;
    checks.extend(destinations::encryption(&config.encryption));
    let Options { broker, backend, .. } = &config.worker;
    let answers = redis("broker", broker, "REDIS_URL (or CELERY_BROKER_URL)", true).await;
    let is_up = answers.ok;
    checks.push(answers);
    if is_up {
        checks.extend(queues::check_queues(&config.worker).await);
    }
    if backend != broker {
        checks.push(redis("result backend", backend, "CELERY_RESULT_BACKEND", true).await);
    }
    let components = app::components(config, app::bucket_folder(config).await);
    for component in &components {
        checks.push(source(component, component.source.check()).await);
    }
    checks.extend(components.iter().filter_map(server_folder));
    if components.is_empty() {
        let nothing = Err("no component is configured, so nothing would be backed up".to_owned());
        let settings: Vec<_> = ComponentName::all().map(|name| name.kind().setting).collect();
        let (last, others) = settings.split_last().expect("there are components");
        let fix = format!("set {} or {last}", others.join(", "));
        checks.push(Check::new("components", nothing, &fix));
    }
    checks
}

/// Returns the result of `look`, or an error text if `look` takes longer than [`PATIENCE`].
async fn in_time<T, E>(look: impl Future<Output = Result<T, E>>) -> Result<Result<T, E>, String> {
    let answer = tokio::time::timeout(PATIENCE, look).await;
    answer.map_err(|_| format!("no answer within {} s", PATIENCE.as_secs()))
}

/// The Redis of a setting. A thorough look also asks whether Redis runs scripts and keeps its keys.
async fn redis(name: &str, options: &ConnectOptions, setting: &str, is_thorough: bool) -> Check {
    let start = format!("start Redis, or correct the host in {setting}");
    let look = async {
        let client = Client::new(options.clone())?;
        client.ping().await?;
        if !is_thorough {
            return Ok(None);
        }
        client.try_script().await?;
        client.evicts().await
    };
    match in_time(look).await {
        Ok(Ok(None)) => Check::new(name, Ok(format!("{options} answers")), ""),
        Ok(Ok(Some(policy))) => {
            let found = format!(
                "{options} evicts keys when its memory is full (maxmemory-policy {policy}): tasks, locks and \
                                 results can be lost"
            );
            Check::new(name, Err(found), "set `maxmemory-policy noeviction` in Redis")
        }
        Ok(Err(err)) => {
            let why = chain(&err);
            let fix = match err {
                CeleryError::Refused { .. } => advice::with_dollar(
                    &format!(
                        "correct the user, password or database in {setting}, or give that user the rights in \
                         docs/security.md"
                    ),
                    setting.split(' ').next().unwrap_or(setting),
                ),
                CeleryError::Config { .. } => format!("correct {setting}"),
                _ => advice::unknown_host(&why, &options.to_string(), setting).unwrap_or(start),
            };
            Check::new(name, Err(format!("{options}: {why}")), &fix)
        }
        Err(late) => Check::new(name, Err(format!("{options}: {late}")), &start),
    }
}

/// The source of a component, its server or folder, by what `found` brings: of a thorough look, or of a light one.
async fn source<T: Into<SourceSummary>>(
    component: &Component,
    found: impl Future<Output = Result<T, ComponentError>>,
) -> Check {
    let name = component.name();
    let (found, fix) = match in_time(found).await {
        Ok(Ok(found)) => {
            let SourceSummary(words) = found.into();
            (Ok(words), String::new())
        }
        Ok(Err(err)) => match AccessProblem::within(&err) {
            Some(problem) => {
                (Err(format!("{}: {}", name.kind().setting, problem.found)), problem.fix.clone())
            }
            None => (Err(chain(&err)), remedy(component, &err)),
        },
        Err(late) => (Err(late), start(name)),
    };
    Check::new(name.as_str(), found, &fix)
}

/// The result of a look at a source, in one line; a light look has no details to report.
struct SourceSummary(String);

impl From<String> for SourceSummary {
    fn from(words: String) -> Self {
        Self(words)
    }
}

impl From<()> for SourceSummary {
    fn from((): ()) -> Self {
        Self("it answers".to_owned())
    }
}

fn start(name: ComponentName) -> String {
    let kind = name.kind();
    format!("start {}, or correct {}", kind.server, kind.address_setting)
}

/// Returns the remedy for a source that cannot be read.
fn remedy(component: &Component, err: &ComponentError) -> String {
    let (name, kind) = (component.name(), component.name().kind());
    match (err, kind.credentials) {
        (ComponentError::Denied { .. }, Some((fix, secret))) => advice::with_dollar(fix, secret),
        (ComponentError::Unavailable { .. }, _) => {
            let host = component.source.host().unwrap_or_default();
            let unknown = advice::unknown_host(&chain(err), &host, kind.address_setting);
            unknown.unwrap_or_else(|| start(name))
        }
        _ => format!("correct {}, or what it points to", kind.setting),
    }
}

/// The folder that a component's own server writes to, where it is to be used for certain.
fn server_folder(component: &Component) -> Option<Check> {
    let (setting, folder) = component.server_side.as_ref()?.folder()?;
    let name = format!("{} folder", component.name());
    Some(match check_folder(folder, Need::Write) {
        Ok(()) => Check::new(&name, Ok(format!("{} can be written", folder.display())), ""),
        Err(problem) => Check::new(&name, Err(format!("{setting}: {}", problem.found)), &problem.fix),
    })
}
