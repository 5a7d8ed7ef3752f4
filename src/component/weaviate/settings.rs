//! The settings of the vector database.

use crate::base::env::Env;
use crate::component::Component;
use crate::component::registry::{Parts, Registration, Settings, SettingsContext};
use crate::component::weaviate::{Address, BackendSetting, Tls, Weaviate, WeaviateConfig, by_hand};
use crate::domain::component::ComponentName;
use secrecy::ExposeSecret;
use std::{path::PathBuf, sync::Arc, time::Duration};

pub(in crate::component) const REGISTRATION: Registration = Registration {
    name: ComponentName::WEAVIATE,
    read: |env, context| read(env, context).map(|config| Arc::new(config) as _),
    by_hand: |read, facts| Some(by_hand::commands(read, facts?.backend.as_deref()?)),
    variables: |facts| Some(by_hand::variables(facts)),
};

impl Settings for WeaviateConfig {
    fn name(&self) -> ComponentName {
        ComponentName::WEAVIATE
    }

    fn build(&self, parts: &Parts) -> Component {
        Weaviate::new(self.clone(), parts.bucket_folder.clone()).into()
    }
}

fn read(env: &mut Env, context: &SettingsContext<'_>) -> Option<WeaviateConfig> {
    const HOURS: u64 = 6;
    context.require(env, ComponentName::WEAVIATE);
    let (server, drill) = (address(env, "WEAVIATE_URL"), address(env, "BACKUP_WEAVIATE_DRILL_URL"));
    let api_key = env.secret("WEAVIATE_API_KEY");
    let by_tls = env.flag("WEAVIATE_TLS_ENABLED", false);
    let tls = Tls { ca: env.optional("WEAVIATE_CA_CERT"), client: client(env) };
    let backend = env.or("BACKUP_WEAVIATE_BACKEND", BackendSetting::default());
    let dir = env.optional::<PathBuf>("BACKUP_WEAVIATE_DIR");
    let timeout = env.duration("BACKUP_WEAVIATE_TIMEOUT", Duration::from_hours(HOURS));
    if drill.is_some() && drill == server {
        env.note("BACKUP_WEAVIATE_DRILL_URL", "is WEAVIATE_URL itself: name a second server");
    }
    let with_tls = |address: Address| if by_tls { address.with_tls() } else { address };
    let server = with_tls(server?);
    Some(WeaviateConfig {
        state: context.root.join(".weaviate").join(server.to_string()),
        server,
        api_key,
        tls,
        backend,
        dir,
        timeout,
        drill: drill.map(with_tls),
        second: Duration::from_secs(1),
    })
}

/// An address may hold a password by mistake, so it is read as a secret.
fn address(env: &mut Env, name: &str) -> Option<Address> {
    let text = env.secret(name)?;
    text.expose_secret().parse().map_err(|err| env.note(name, err)).ok()
}

fn client(env: &mut Env) -> Option<(PathBuf, PathBuf)> {
    let (certificate, key) = ("WEAVIATE_CLIENT_CERT", "WEAVIATE_CLIENT_KEY");
    match (env.optional(certificate), env.optional(key)) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        (Some(_), None) => {
            env.note(key, format_args!("is required beside {certificate}"));
            None
        }
        (None, Some(_)) => {
            env.note(certificate, format_args!("is required beside {key}"));
            None
        }
    }
}
