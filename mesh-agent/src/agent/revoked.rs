// SPDX-License-Identifier: Apache-2.0

//! Follows the list of revoked certificates: a file, or a ConfigMap of the cluster whose configuration
//! this is.
//!
//! Knows nothing of certificates. Invariants: a list that cannot be read, or is gone, takes nothing away:
//! the last good one stays in force, over a restart too if there is a directory for that, and that is said;
//! a list that was kept is in force before any session begins.

use std::{fs, sync::Arc, time::Duration};

use anyhow::Context;
use tokio::{sync::watch, time::timeout};

use super::authority::watch_file;
use crate::{
    config,
    identity::{Identities, KeptList},
    settings::RunSettings,
    tasks::Tasks,
    telemetry::chain,
};

/// Where operators write what is no longer good.
const CONFIG_MAP: &str = "mesh-agent-revoked";
const KEY: &str = "revoked.yaml";

/// The directory of the state for a list that was followed in a cluster.
const DIRECTORY: &str = "revoked";

/// When a disk that did not take the list is tried again.
const KEEP_AGAIN: Duration = Duration::from_secs(60);

/// Begins to follow it.
///
/// # Errors
/// The file cannot be read, or is no list: nobody is to start without a list that was asked for. There is
/// no way to the Kubernetes API where configuration comes from there.
pub(super) async fn start(
    settings: &RunSettings,
    identities: &Identities,
    tasks: &Tasks,
) -> anyhow::Result<()> {
    let (from, texts, keeper) = match (&settings.authority.revoked, &settings.source.config_dir) {
        (Some(path), _) => {
            let named = || format!("--revoked {}", path.display());
            let text = fs::read_to_string(path).with_context(named)?;
            config::parse_revoked(&text).with_context(named)?;
            let texts = watch_file(path, text, tasks);
            // It is on disk.
            (path.display().to_string(), texts, None)
        }
        (None, Some(_directory)) => return Ok(()),
        (None, None) => {
            let client = config::client(settings.source.kubeconfig.as_deref());
            let client = client.await.context("list of revoked certificates")?;
            let namespace = &settings.authority.ca_namespace;
            let texts = config::watch_text(client, namespace, CONFIG_MAP, KEY, tasks);
            let from = format!("ConfigMap {namespace}/{CONFIG_MAP}");
            (from, texts, keeper(settings, identities))
        }
    };
    let follower = Follower {
        from: from.into(),
        identities: identities.clone(),
        keeper,
        tasks: tasks.clone(),
    };
    tasks.spawn("follow revoked", follower.run(texts));
    Ok(())
}

/// Where the list is kept, after what was kept there has come into force.
fn keeper(settings: &RunSettings, identities: &Identities) -> Option<Keeper> {
    let state = settings.source.state_dir.as_ref()?;
    let dir = state.join(&settings.node).join(DIRECTORY);
    match KeptList::open(&dir) {
        Ok(list) => Some(Keeper::recall(list, identities)),
        Err(error) => {
            let error = chain(&error);
            tracing::error!(
                error,
                "the list of revoked certificates cannot be kept: a start without the API server will not know it"
            );
            None
        }
    }
}

/// The list on disk.
struct Keeper {
    list: KeptList,
    /// What it is, as far as that is known.
    holds: Option<String>,
    is_failing: bool,
}

impl Keeper {
    /// Brings into force what was kept.
    fn recall(list: KeptList, identities: &Identities) -> Self {
        let path = list.path();
        let read = match list.load() {
            Ok(None) => Ok(None),
            Ok(Some(text)) => match config::parse_revoked(&text) {
                Ok(revoked) => Ok(Some((text, revoked))),
                Err(error) => Err(format!("{}: {}", path.display(), chain(&error))),
            },
            Err(error) => Err(chain(&error)),
        };
        let holds = match read {
            Ok(None) => None,
            Ok(Some((text, revoked))) => {
                tracing::info!(path = %path.display(), "the list of revoked certificates is from disk until it is read anew");
                identities.revoke(revoked);
                Some(text)
            }
            Err(error) => {
                tracing::error!(
                    error,
                    "the kept list of revoked certificates cannot be used: none is in force until it is read anew"
                );
                identities.note_bad_list(error);
                None
            }
        };
        Self {
            list,
            holds,
            is_failing: false,
        }
    }

    /// Keeps a list that is in force; whether it is on disk now.
    async fn keep(&mut self, text: &str, tasks: &Tasks) -> bool {
        if self.holds.as_deref() == Some(text) {
            return true;
        }
        let (list, owned) = (self.list.clone(), text.to_owned());
        let stored = tasks.blocking("keep revoked", move || list.store(&owned));
        match stored.await {
            Some(Ok(())) => {
                self.holds = Some(text.to_owned());
                self.is_failing = false;
                true
            }
            Some(Err(error)) => {
                if !self.is_failing {
                    let path = self.list.path();
                    tracing::warn!(path = %path.display(), %error, "the list of revoked certificates is in force, and cannot be kept over a restart: will try again");
                }
                self.is_failing = true;
                false
            }
            // A panic, which is told and counted.
            None => false,
        }
    }
}

/// What is done with texts as they come.
struct Follower {
    from: Arc<str>,
    identities: Identities,
    keeper: Option<Keeper>,
    tasks: Tasks,
}

impl Follower {
    async fn run(mut self, mut texts: watch::Receiver<Option<String>>) {
        loop {
            let text = texts.borrow_and_update().clone();
            let is_kept = match text {
                Some(text) => self.take(&text).await,
                None => true,
            };
            // Cancel-safe: a change that comes stays noted.
            let changed = texts.changed();
            let changed = match is_kept {
                true => changed.await,
                false => timeout(KEEP_AGAIN, changed).await.unwrap_or(Ok(())),
            };
            // The sender ends with the drain.
            if changed.is_err() {
                return;
            }
        }
    }

    /// Brings a list into force, and keeps it; whether there is nothing more to do with it.
    async fn take(&mut self, text: &str) -> bool {
        match config::parse_revoked(text) {
            Ok(list) => {
                self.identities.revoke(list);
                match &mut self.keeper {
                    Some(keeper) => keeper.keep(text, &self.tasks).await,
                    None => true,
                }
            }
            Err(error) => {
                let (from, error) = (&self.from, chain(&error));
                tracing::error!(%from, error, "the list of revoked certificates cannot be used, the last good one stays");
                self.identities.note_bad_list(format!("{from}: {error}"));
                true
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::identity::CertificateAuthority;

    struct Dir(PathBuf);

    impl Dir {
        fn new() -> Self {
            let name = format!("mesh-agent-revoked-{:016x}", fastrand::u64(..));
            Self(std::env::temp_dir().join(name))
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            drop(fs::remove_dir_all(&self.0));
        }
    }

    /// An agent with its state in `dir`, that has heard nothing yet.
    fn agent(dir: &Path) -> Follower {
        let authority = CertificateAuthority::in_memory("td").unwrap();
        let tasks = Tasks::new();
        let identities = Identities::new(authority, Duration::from_secs(3600), tasks.clone());
        let keeper = Keeper::recall(KeptList::open(dir).unwrap(), &identities);
        Follower {
            from: "ConfigMap".into(),
            identities,
            keeper: Some(keeper),
            tasks,
        }
    }

    /// How many serial numbers and identities are in force, and whether the newest list is not.
    fn in_force(agent: &Follower) -> (usize, usize, bool) {
        let view = agent.identities.revoked();
        (view.serials, view.identities, view.problem.is_some())
    }

    const TWO: &str =
        "- serial: '01'\n- {identity: 'td/ns/a/*', issuedBefore: 2026-01-31T15:00:00Z}\n";

    #[tokio::test]
    async fn an_agent_that_starts_refuses_what_was_revoked_before_anybody_tells_it() {
        let dir = Dir::new();
        let mut first = agent(&dir.0);
        assert_eq!(in_force(&first), (0, 0, false));
        assert!(first.take(TWO).await);
        let mut second = agent(&dir.0);
        assert_eq!(in_force(&second), (1, 1, false));
        // What is said now takes the place of what was kept.
        assert!(second.take("- serial: '02'\n").await);
        assert_eq!(in_force(&second), (1, 0, false));
        assert_eq!(in_force(&agent(&dir.0)), (1, 0, false));
        assert!(second.take("[]").await);
        assert_eq!(in_force(&agent(&dir.0)), (0, 0, false));
    }

    #[tokio::test]
    async fn a_list_that_cannot_be_used_is_not_kept() {
        let dir = Dir::new();
        let mut first = agent(&dir.0);
        assert!(first.take(TWO).await);
        assert!(first.take("- serial: nonsense\n").await);
        assert_eq!(in_force(&first), (1, 1, true));
        assert_eq!(in_force(&agent(&dir.0)), (1, 1, false));
    }

    #[tokio::test]
    async fn a_disk_that_takes_nothing_stops_nothing_and_is_tried_again() {
        let dir = Dir::new();
        let mut agent = agent(&dir.0);
        fs::remove_dir_all(&dir.0).unwrap();
        assert!(!agent.take(TWO).await);
        assert_eq!(in_force(&agent), (1, 1, false));
        let kept = KeptList::open(&dir.0).unwrap();
        assert!(agent.take(TWO).await);
        assert_eq!(kept.load().unwrap().as_deref(), Some(TWO));
    }

    #[tokio::test]
    async fn a_kept_list_that_is_damaged_is_told_until_it_is_read_anew() {
        let dir = Dir::new();
        let kept = KeptList::open(&dir.0).unwrap();
        kept.store("- serial: '01'\n- ser").unwrap();
        let mut agent = agent(&dir.0);
        assert_eq!(in_force(&agent), (0, 0, true));
        assert!(agent.take(TWO).await);
        assert_eq!(in_force(&agent), (1, 1, false));
    }
}
