// SPDX-License-Identifier: Apache-2.0

//! Puts definitions into a cluster that lacks them.
//!
//! Knows nothing of what they define. Invariant: a definition that does not carry our label is
//! somebody else's, and stays as it is: with Istio's own installed, those are the ones that count.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};

use super::{MANAGED_BY, all};

/// How often a definition is looked at again that somebody else changed meanwhile.
const TRIES: usize = 4;

/// What became of one definition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Installed {
    /// It was not there.
    Created,
    /// It was ours, of another version.
    Updated,
    /// It was there already, as it should be.
    Present,
    /// Somebody else's is there.
    Foreign,
}

/// A definition could not be installed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InstallError {
    /// The API server refused, or did not answer.
    #[error("installing CustomResourceDefinition {name}")]
    Api {
        /// Its name.
        name: String,
        /// What the API server says.
        #[source]
        source: kube::Error,
    },
    /// It was changed by others again and again.
    #[error("CustomResourceDefinition {name} keeps changing while it is installed")]
    Contended {
        /// Its name.
        name: String,
    },
}

/// Creates what is missing and updates what is ours. Several may do this at once.
///
/// # Errors
/// The first definition that cannot be read or written.
pub async fn install(client: &Client) -> Result<Vec<(String, Installed)>, InstallError> {
    let api = Api::all(client.clone());
    let mut outcomes = Vec::new();
    for definition in all() {
        let wanted: CustomResourceDefinition =
            serde_json::from_value(definition).expect("made in the form of its kind");
        let name = wanted.metadata.name.clone().unwrap_or_default();
        let outcome = install_one(&api, &name, &wanted).await?;
        outcomes.push((name, outcome));
    }
    Ok(outcomes)
}

async fn install_one(
    api: &Api<CustomResourceDefinition>,
    name: &str,
    wanted: &CustomResourceDefinition,
) -> Result<Installed, InstallError> {
    for _ in 0..TRIES {
        let error = match attempt(api, name, wanted).await {
            Ok(outcome) => return Ok(outcome),
            Err(error) => error,
        };
        // Another of us was faster, with the creation or with the update: look again.
        if !matches!(&error, kube::Error::Api(status) if status.code == 409) {
            return Err(InstallError::Api {
                name: name.to_owned(),
                source: error,
            });
        }
    }
    Err(InstallError::Contended {
        name: name.to_owned(),
    })
}

async fn attempt(
    api: &Api<CustomResourceDefinition>,
    name: &str,
    wanted: &CustomResourceDefinition,
) -> Result<Installed, kube::Error> {
    let found = api.get_opt(name).await?;
    let parameters = PostParams::default();
    match decide(found.as_ref(), wanted) {
        Step::Create => {
            api.create(&parameters, wanted).await?;
            Ok(Installed::Created)
        }
        Step::Replace(definition) => {
            api.replace(name, &parameters, &definition).await?;
            Ok(Installed::Updated)
        }
        Step::Keep => Ok(Installed::Present),
        Step::LeaveAlone => Ok(Installed::Foreign),
    }
}

/// What has to be done about one definition.
#[derive(Debug, PartialEq)]
enum Step {
    Create,
    /// With this, which names the version that it replaces.
    Replace(Box<CustomResourceDefinition>),
    Keep,
    LeaveAlone,
}

fn decide(found: Option<&CustomResourceDefinition>, wanted: &CustomResourceDefinition) -> Step {
    let Some(found) = found else {
        return Step::Create;
    };
    if !is_ours(&found.metadata) {
        return Step::LeaveAlone;
    }
    if found.spec == wanted.spec {
        return Step::Keep;
    }
    Step::Replace(Box::new(CustomResourceDefinition {
        metadata: found.metadata.clone(),
        spec: wanted.spec.clone(),
        status: None,
    }))
}

fn is_ours(metadata: &ObjectMeta) -> bool {
    let (label, ours) = MANAGED_BY;
    let labels = metadata.labels.as_ref();
    labels
        .and_then(|labels| labels.get(label))
        .map(String::as_str)
        == Some(ours)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted() -> CustomResourceDefinition {
        serde_json::from_value(all().swap_remove(0)).unwrap()
    }

    /// As the API server has it.
    fn stored(change: impl FnOnce(&mut CustomResourceDefinition)) -> CustomResourceDefinition {
        let mut definition = wanted();
        definition.metadata.resource_version = Some("7".to_owned());
        definition.metadata.uid = Some("u".to_owned());
        change(&mut definition);
        definition
    }

    #[test]
    fn what_is_missing_is_created() {
        assert_eq!(decide(None, &wanted()), Step::Create);
    }

    #[test]
    fn what_is_there_already_is_not_written_again() {
        assert_eq!(decide(Some(&stored(|_| {})), &wanted()), Step::Keep);
    }

    #[test]
    fn an_older_one_of_ours_is_replaced_and_keeps_what_others_added() {
        let found = stored(|definition| {
            definition.spec.versions.truncate(1);
            let annotations = definition.metadata.annotations.get_or_insert_default();
            annotations.insert("note".to_owned(), "kept".to_owned());
        });
        let Step::Replace(definition) = decide(Some(&found), &wanted()) else {
            panic!("it differs");
        };
        assert_eq!(definition.spec, wanted().spec);
        assert_eq!(definition.metadata, found.metadata);
    }

    #[test]
    fn somebody_elses_is_left_alone_whatever_it_says() {
        let without_labels = stored(|definition| {
            definition.spec.versions.truncate(1);
            definition.metadata.labels = None;
        });
        assert_eq!(decide(Some(&without_labels), &wanted()), Step::LeaveAlone);
        let by_helm = stored(|definition| {
            let labels = definition.metadata.labels.get_or_insert_default();
            labels.insert(MANAGED_BY.0.to_owned(), "Helm".to_owned());
        });
        assert_eq!(decide(Some(&by_helm), &wanted()), Step::LeaveAlone);
    }
}
