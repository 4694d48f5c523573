// SPDX-License-Identifier: Apache-2.0

//! What the benchmark was asked to do, from the words of its command line.
//!
//! Knows nothing of how it is done. Invariant: options that exist are consistent: every plane and
//! every measure they name is known.

use std::{path::PathBuf, time::Duration};

use super::{
    congestion,
    plan::{self, Measure},
    plane::{self, Wanted},
};

/// How to call the benchmark.
pub const USAGE: &str = "\
usage: mesh-bench [OPTIONS]

  --quick             the measures that matter most, in less than 3 minutes
  --planes NAME,...   only these planes; default: all
  --only KEY,...      only measures whose key begins so: h1, fixed_1000, hold
  --rounds N          how often each is measured [3; quick: 2]
  --seconds N         length of a sample under full load [3; quick: 2]
  --fixed-seconds N   length of a sample at a fixed rate [8; quick: 3]
  --peer NAME=PATH    another data plane, brought up by the program PATH; may be given again
  --agent-flag FLAG   a further flag for our agents; may be given again
  --congestion NAME   how TCP paces itself on all planes [cubic]
  --loss PERCENT      of the packets between the nodes that much is lost, by chance [0]
  --json FILE         everything, with every sample
  --plot FILE         our ratios to the two Envoys, as an SVG
  --quiet-below X     a sample during which others used more of the machine is disturbed [0.1]
  --budget N          seconds after which no further sample begins [quick: 160; else none]
  --list              planes and measures

Envoy is ENVOY_BIN, the agent MESH_AGENT_BIN, else the one beside this program.";

/// What to measure, how long, and where the result goes.
#[derive(Debug)]
pub struct Options {
    /// The words it was called with.
    pub(super) words: Vec<String>,
    pub(super) planes: Vec<Wanted>,
    pub(super) measures: Vec<&'static Measure>,
    pub(super) rounds: u32,
    pub(super) seconds: u32,
    pub(super) fixed_seconds: u32,
    pub(super) quiet_below: f64,
    pub(super) budget: Option<Duration>,
    pub(super) quick: bool,
    pub(super) agent_flags: Vec<String>,
    /// TCP's congestion control, by the kernel's name.
    pub(super) congestion: String,
    /// In percent.
    pub(super) loss: f64,
    pub(super) json: Option<PathBuf>,
    pub(super) plot: Option<PathBuf>,
    /// Say what there is, and measure nothing.
    pub list: bool,
}

/// The words as they were typed.
#[derive(Default)]
struct Typed {
    quick: bool,
    list: bool,
    planes: Vec<String>,
    only: Vec<String>,
    peers: Vec<String>,
    agent_flags: Vec<String>,
    congestion: Option<String>,
    rounds: Option<u32>,
    seconds: Option<u32>,
    fixed_seconds: Option<u32>,
    budget: Option<u64>,
    quiet_below: Option<f64>,
    loss: Option<f64>,
    json: Option<PathBuf>,
    plot: Option<PathBuf>,
}

impl Options {
    /// Reads the words of the command line.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn parse(words: &[String]) -> Result<Self, String> {
        let typed = Typed::read(words)?;
        let quick = typed.quick;
        let by_default = |full, brief| if quick { brief } else { full };
        let budget = typed.budget.or(quick.then_some(160));
        Ok(Self {
            words: words.to_vec(),
            planes: plane::choose(&typed.planes, &typed.peers)?,
            measures: plan::choose(&typed.only, quick)?,
            rounds: typed.rounds.unwrap_or(by_default(3, 2)).max(1),
            seconds: typed.seconds.unwrap_or(by_default(3, 2)).max(1),
            fixed_seconds: typed.fixed_seconds.unwrap_or(by_default(8, 3)).max(1),
            quiet_below: typed.quiet_below.unwrap_or(0.1),
            budget: budget.map(Duration::from_secs),
            quick,
            agent_flags: typed.agent_flags,
            congestion: typed
                .congestion
                .unwrap_or_else(|| congestion::USUAL.to_owned()),
            loss: percentage(typed.loss.unwrap_or_default())?,
            json: typed.json,
            plot: typed.plot,
            list: typed.list,
        })
    }

    /// Planes and measures, for people.
    pub fn listing(&self) -> String {
        let mut text = "planes\n".to_owned();
        for wanted in &self.planes {
            text.push_str(&format!("  {:16} {}\n", wanted.name(), wanted.about()));
        }
        text.push_str("measures\n");
        for measure in &self.measures {
            text.push_str(&format!("  {:16} {}\n", measure.key, measure.label));
        }
        text.trim_end().to_owned()
    }
}

impl Typed {
    fn read(words: &[String]) -> Result<Self, String> {
        let mut typed = Self::default();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or(format!("{word} needs a value"));
            match word.as_str() {
                "--quick" => typed.quick = true,
                "--list" => typed.list = true,
                "--planes" => typed.planes.extend(list(value()?)),
                "--only" => typed.only.extend(list(value()?)),
                "--peer" => typed.peers.push(value()?.clone()),
                "--agent-flag" => typed.agent_flags.push(value()?.clone()),
                "--congestion" => typed.congestion = Some(value()?.clone()),
                "--rounds" => typed.rounds = Some(number(word, value()?)?),
                "--seconds" => typed.seconds = Some(number(word, value()?)?),
                "--fixed-seconds" => typed.fixed_seconds = Some(number(word, value()?)?),
                "--budget" => typed.budget = Some(number(word, value()?)?),
                "--quiet-below" => typed.quiet_below = Some(number(word, value()?)?),
                "--loss" => typed.loss = Some(number(word, value()?)?),
                "--json" => typed.json = Some(value()?.into()),
                "--plot" => typed.plot = Some(value()?.into()),
                _ => return Err(format!("unknown option {word:?}")),
            }
        }
        Ok(typed)
    }
}

fn list(text: &str) -> impl Iterator<Item = String> {
    text.split(',').map(|part| part.trim().to_owned())
}

fn number<T: std::str::FromStr<Err: std::fmt::Display>>(
    option: &str,
    text: &str,
) -> Result<T, String> {
    text.parse()
        .map_err(|error| format!("{option} {text:?}: {error}"))
}

fn percentage(number: f64) -> Result<f64, String> {
    if (0.0..=50.0).contains(&number) {
        Ok(number)
    } else {
        Err(format!("--loss {number}: from 0 to 50"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options, String> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        Options::parse(&words)
    }

    #[track_caller]
    fn check_refused(line: &str, want: &str) {
        let error = parse(line).expect_err(line);
        assert!(error.contains(want), "{error}");
    }

    #[test]
    fn quick_is_shorter_and_bounded() {
        let (full, quick) = (parse("").unwrap(), parse("--quick").unwrap());
        assert!(quick.measures.len() < full.measures.len());
        assert!(quick.rounds < full.rounds);
        assert!(quick.budget.is_some_and(|budget| budget.as_secs() < 180));
        assert_eq!(full.budget, None);
    }

    #[test]
    fn what_is_typed_wins_over_quick() {
        let options = parse("--rounds 7 --quick --seconds 1 --budget 60").unwrap();
        assert_eq!((options.rounds, options.seconds), (7, 1));
        assert_eq!(options.budget, Some(Duration::from_secs(60)));
    }

    #[test]
    fn planes_and_measures_are_narrowed() {
        let options = parse("--planes direct,agent --only h1_c16,fixed").unwrap();
        let planes: Vec<_> = options.planes.iter().map(Wanted::name).collect();
        assert_eq!(planes, ["direct", "agent"]);
        let keys: Vec<_> = options.measures.iter().map(|one| one.key).collect();
        assert_eq!(keys, ["h1_c16", "fixed_1000"]);
    }

    #[test]
    fn flags_of_the_agent_are_kept_as_they_are() {
        let options = parse("--agent-flag --encrypt-on-node --agent-flag --threads=1").unwrap();
        assert_eq!(options.agent_flags, ["--encrypt-on-node", "--threads=1"]);
    }

    #[test]
    fn congestion_control_is_what_most_systems_have() {
        assert_eq!(parse("").unwrap().congestion, "cubic");
        assert_eq!(parse("--congestion bbr").unwrap().congestion, "bbr");
    }

    #[test]
    fn a_peer_is_a_plane() {
        let options = parse("--peer other=/opt/adapter --planes other").unwrap();
        assert_eq!(options.planes.len(), 1);
        assert_eq!(options.planes[0].name(), "other");
    }

    #[test]
    fn what_is_wrong_is_named() {
        check_refused("--fast", "unknown option \"--fast\"");
        check_refused("--rounds", "--rounds needs a value");
        check_refused("--rounds many", "--rounds \"many\"");
        check_refused("--planes linkerd", "no plane \"linkerd\"");
        check_refused("--loss 51", "from 0 to 50");
        check_refused("--only h3", "no measure begins with \"h3\"");
        check_refused("--peer nameless", "NAME=PATH");
        check_refused("--peer agent=/x", "is taken");
        check_refused("--peer same-x=/x", "does not begin");
        check_refused("--peer a/b=/x", "letters, digits");
    }
}
