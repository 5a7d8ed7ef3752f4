//! The settings: read from the environment, checked all at once, never shown.

mod known;

use crate::access;
use crate::units::{ByteSize, Span};
use secrecy::{ExposeSecret as _, SecretString};
use std::{
    collections::BTreeMap,
    ffi::OsString,
    fmt,
    fs::File,
    io::{self, Read as _},
    path::Path,
    str::FromStr,
    time::Duration,
};

use known::{KNOWN, OF_COMPOSE};
pub use known::{Setting, open, secret};

/// Reads settings and remembers every problem with them.
///
/// The variables are whatever it is given: tests pass a list, `main` passes
/// [`std::env::vars_os`], and no test touches the process environment. An empty value means
/// unset, and space around a value is cut off, except for secrets. Getters return `None` or the
/// default where a value is wrong, so that reading goes on and all problems come out together.
pub struct Env {
    vars: BTreeMap<String, String>,
    /// The variables of which the value is not UTF-8.
    not_utf8: Vec<String>,
    known: Vec<Setting>,
    problems: Vec<Problem>,
    warnings: Vec<Warning>,
}

/// One setting that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Name of the setting.
    pub name: String,
    /// The fault of the setting; never its value.
    pub why: String,
}

/// One setting that looks wrong but does not stop anything.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name}: {why}")]
pub struct Warning {
    /// Name of the setting.
    pub name: String,
    /// The suspicion about the setting; never its value.
    pub why: String,
}

/// All that is wrong with the configuration, one line each. Never a value: half of them are
/// secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The faults, in the order of reading.
    pub problems: Vec<Problem>,
    /// The suspicions: a misspelled name may be why another one is missing.
    pub warnings: Vec<Warning>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.problems.len() {
            1 => f.write_str("1 setting needs attention")?,
            n => write!(f, "{n} settings need attention")?,
        }
        self.problems.iter().try_for_each(|p| write!(f, "\n  {}: {}", p.name, p.why))?;
        match self.warnings.len() {
            0 => return Ok(()),
            1 => f.write_str("\nand 1 looks wrong")?,
            n => write!(f, "\nand {n} look wrong")?,
        }
        self.warnings.iter().try_for_each(|warning| write!(f, "\n  {warning}"))
    }
}

impl std::error::Error for ConfigError {}

impl fmt::Debug for Env {
    /// Names alone.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.vars.keys()).finish()
    }
}

impl Env {
    /// Takes the variables as they are.
    pub fn new<K: Into<String>, V: Into<String>>(vars: impl IntoIterator<Item = (K, V)>) -> Self {
        let vars = vars.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
        let known = KNOWN.to_vec();
        Self { vars, not_utf8: Vec::new(), known, problems: Vec::new(), warnings: Vec::new() }
    }

    /// Takes the variables of a process. Those that are not UTF-8 are left out, unless they are
    /// settings: then that is a problem.
    pub fn from_os(vars: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        let (mut good, mut not_utf8) = (Vec::new(), Vec::new());
        for (name, value) in vars {
            match (name.into_string(), value.into_string()) {
                (Ok(name), Ok(value)) => good.push((name, value)),
                (Ok(name), Err(_)) => not_utf8.push(name),
                (Err(_), _) => {}
            }
        }
        Self { not_utf8, ..Self::new(good) }
    }

    /// Adds settings that only a part of the program knows. Nobody asks for them before.
    pub fn know(&mut self, settings: &[Setting]) {
        self.known.extend_from_slice(settings);
    }

    /// The value of `name`; `None` both when it is unset and when it is wrong, which is noted.
    pub fn optional<T: FromStr<Err: fmt::Display>>(&mut self, name: &str) -> Option<T> {
        let parsed = self.value(name)?.parse();
        parsed.map_err(|err: T::Err| self.note(name, err)).ok()
    }

    /// The value of `name`, or `default`.
    pub fn or<T: FromStr<Err: fmt::Display>>(&mut self, name: &str, default: T) -> T {
        self.optional(name).unwrap_or(default)
    }

    /// Like [`or`](Self::or) for types whose own errors are for programmers: a wrong value is not
    /// `kind`, such as "a whole number".
    pub fn of_kind<T: FromStr>(&mut self, name: &str, kind: &str, default: T) -> T {
        let Some(parsed) = self.value(name).map(str::parse) else { return default };
        parsed.unwrap_or_else(|_| {
            self.note(name, format_args!("is not {kind}"));
            default
        })
    }

    /// A yes or no: `True/False/1/0/yes/no/on/off` in any case.
    pub fn flag(&mut self, name: &str, default: bool) -> bool {
        self.or(name, Flag(default)).0
    }

    /// A length of time such as `30s`.
    pub fn duration(&mut self, name: &str, default: Duration) -> Duration {
        self.or(name, Span(default)).0
    }

    /// A size in bytes such as `1GiB`.
    pub fn bytes(&mut self, name: &str, default: u64) -> u64 {
        self.or(name, ByteSize(default)).0
    }

    /// The items of a comma list, in order; `None` when it is unset. Empty items do not count, and
    /// a list of nothing else is unset.
    pub fn list<T: FromStr<Err: fmt::Display>>(&mut self, name: &str) -> Option<Vec<T>> {
        let text = self.value(name)?.to_owned();
        let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
        let mut list = Vec::new();
        for (at, item) in items.enumerate() {
            let parsed: Result<T, T::Err> = item.parse();
            match parsed.map_err(|err| without(item, &err)) {
                Ok(item) => list.push(item),
                Err(why) => self.note(name, format_args!("item {}: {why}", at + 1)),
            }
        }
        (!list.is_empty()).then_some(list)
    }

    /// A secret, from `name` or from the file that `<name>_FILE` names, whose last newline does not
    /// count. Both at once is a problem, and so is a file that cannot be read or is empty.
    pub fn secret(&mut self, name: &str) -> Option<SecretString> {
        debug_assert!(self.is_secret(name), "{name} is not known as a secret");
        let file = format!("{name}_FILE");
        let value = self.vars.get(name).filter(|text| !text.is_empty());
        let path = self.vars.get(&file).map(|path| path.trim()).filter(|path| !path.is_empty());
        match (value, path) {
            (None, None) => None,
            (Some(value), None) => Some(value.clone().into()),
            (Some(_), Some(_)) => {
                self.note(name, format_args!("is set, and {file} as well: leave one of them"));
                None
            }
            (None, Some(path)) => {
                let read = read_secret(Path::new(path)).map_err(|why| self.note_shown(&file, why)).ok();
                if read.as_ref().is_some_and(|secret| is_quoted(secret.expose_secret())) {
                    self.warn(&file, format_args!("names a file whose content {QUOTED}"));
                }
                read
            }
        }
    }

    /// True if `name` has a value, right or wrong. Of a secret, the file counts as well.
    pub fn is_set(&self, name: &str) -> bool {
        self.has(name) || self.is_secret(name) && self.has(&format!("{name}_FILE"))
    }

    /// Notes a problem with `name`: for what a reader finds out after the parsing. A text that
    /// repeats the value is replaced.
    pub fn note(&mut self, name: &str, why: impl fmt::Display) {
        let why = self.without_value(name, why);
        self.note_shown(name, why);
    }

    /// Notes that the file cannot be read which the setting `name` names; shows its path, where it is one.
    pub fn note_unreadable(&mut self, name: &str, path: &Path, err: &io::Error) {
        self.note_shown(name, unreadable(path, err));
    }

    fn note_shown(&mut self, name: &str, why: String) {
        let problem = Problem { name: name.to_owned(), why };
        if !self.problems.contains(&problem) {
            self.problems.push(problem);
        }
    }

    /// Notes a suspicion about `name` that stops nothing. A text that repeats the value is replaced.
    pub fn warn(&mut self, name: &str, why: impl fmt::Display) {
        let warning = Warning { name: name.to_owned(), why: self.without_value(name, why) };
        if !self.warnings.contains(&warning) {
            self.warnings.push(warning);
        }
    }

    /// Reads settings that the caller can do without: a wrong one is a warning, and none of them stops the program.
    pub fn unneeded<T>(&mut self, read: impl FnOnce(&mut Self) -> T) -> T {
        let needed = self.problems.len();
        let value = read(self);
        let problems = self.problems.split_off(needed);
        self.warnings.extend(problems.into_iter().map(|Problem { name, why }| Warning { name, why }));
        value
    }

    /// The value that was built from the settings, beside the suspicions.
    ///
    /// # Errors
    ///
    /// Every problem that was met. Somebody has to change the settings.
    ///
    /// # Panics
    ///
    /// Without a value *and* without a problem: whoever built it forgot to note one.
    pub fn finish<T>(mut self, value: Option<T>) -> Result<(T, Vec<Warning>), ConfigError> {
        let not_utf8 = self.not_utf8.iter().filter(|name| self.is_known(name));
        let not_utf8 = not_utf8.map(|name| Problem { name: name.clone(), why: "is not UTF-8".to_owned() });
        self.problems = not_utf8.chain(self.problems.iter().cloned()).collect();
        self.warnings = [self.suspicions(), self.warnings].concat();
        match value {
            Some(value) if self.problems.is_empty() => Ok((value, self.warnings)),
            _ => {
                assert!(!self.problems.is_empty(), "a setting is wrong and nobody noted it");
                Err(ConfigError { problems: self.problems, warnings: self.warnings })
            }
        }
    }

    /// Names like ours that are no setting, and settings in quotation marks.
    fn suspicions(&self) -> Vec<Warning> {
        let is_unknown =
            |name: &str| name.starts_with("BACKUP_") && !self.is_known(name) && !OF_COMPOSE.contains(&name);
        let unknown = self.vars.keys().filter(|name| is_unknown(name));
        let unknown = unknown.map(|name| Warning { name: name.clone(), why: self.unknown_name(name) });
        let quoted = self.vars.iter().filter(|(name, value)| self.is_known(name) && is_quoted(value));
        let quoted = quoted.map(|(name, _)| Warning { name: name.clone(), why: QUOTED.to_owned() });
        unknown.chain(quoted).collect()
    }

    fn unknown_name(&self, name: &str) -> String {
        let nearest = known::nearest(&self.known, name);
        nearest.map_or("is not a known setting".to_owned(), |known| {
            format!("is not a known setting: did you mean {known}?")
        })
    }

    fn is_known(&self, name: &str) -> bool {
        known::is_known(&self.known, name)
    }

    fn is_secret(&self, name: &str) -> bool {
        known::find(&self.known, name).is_some_and(|setting| setting.secret)
    }

    fn value(&self, name: &str) -> Option<&str> {
        debug_assert!(self.is_known(name), "{name} is not a known setting");
        self.vars.get(name).map(|text| text.trim()).filter(|text| !text.is_empty())
    }

    fn has(&self, name: &str) -> bool {
        self.vars.get(name).is_some_and(|text| !text.trim().is_empty())
    }

    fn without_value(&self, name: &str, why: impl fmt::Display) -> String {
        without(self.vars.get(name).map_or("", |value| value.trim()), &why)
    }
}

/// The text of an error about `value`, without the value: parse errors of other crates may quote their input.
fn without(value: &str, why: &impl fmt::Display) -> String {
    /// A shorter value is part of some English word, and no secret.
    const TELLS: usize = 4;
    let why = why.to_string();
    if value.len() >= TELLS && why.contains(value) { "is not valid".to_owned() } else { why }
}

/// The warning about a value in quotation marks, without the value.
const QUOTED: &str = "begins and ends with a quotation mark, which counts as a part of it: `docker run --env-file` \
                      takes quotes off no value, so leave them out";

fn is_quoted(value: &str) -> bool {
    let value = value.trim();
    value.len() > 1 && ['"', '\''].iter().any(|mark| value.starts_with(*mark) && value.ends_with(*mark))
}

fn read_secret(path: &Path) -> Result<SecretString, String> {
    /// No password or key is longer; whoever names a device gets an error and not all of it.
    const LONGEST: u64 = 64 * 1024;
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(LONGEST + 1).read_to_end(&mut bytes));
    read.map_err(|err| unreadable(path, &err))?;
    let shown = if is_path(path) { format!(": {}", path.display()) } else { String::new() };
    if bytes.len() as u64 > LONGEST {
        return Err(format!("names a file of more than 64 KiB{shown}"));
    }
    let text = String::from_utf8(bytes).map_err(|_| format!("names a file that is not UTF-8{shown}"))?;
    let text = text.strip_suffix('\n').map_or(text.as_str(), |text| text.strip_suffix('\r').unwrap_or(text));
    if text.is_empty() { Err(format!("names an empty file{shown}")) } else { Ok(text.into()) }
}

fn unreadable(path: &Path, err: &io::Error) -> String {
    if is_path(path) {
        format!("names a file that cannot be read: {}", access::unreadable(path, err))
    } else {
        format!("names a file that cannot be read, by no absolute path: {}", err.kind())
    }
}

/// Tests whether a value is a path that may be shown. Anything else may be the secret itself, written into the wrong
/// setting: base64 has `/` as well, but hardly at the beginning and without `+` or `=`.
fn is_path(path: &Path) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    let has_folder = path.parent().is_some_and(|folder| folder != Path::new("/"));
    path.is_absolute() && has_folder && path.to_str().is_some_and(|text| text.chars().all(is_plain))
}

/// A boolean as Django people write it.
#[derive(Debug, Clone, Copy)]
struct Flag(bool);

impl FromStr for Flag {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        let is_one_of = |words: [&str; 4]| words.iter().any(|word| text.eq_ignore_ascii_case(word));
        match () {
            () if is_one_of(["true", "1", "yes", "on"]) => Ok(Self(true)),
            () if is_one_of(["false", "0", "no", "off"]) => Ok(Self(false)),
            () => Err("is not one of true, false, 1, 0, yes, no, on, off"),
        }
    }
}

#[cfg(test)]
mod tests;
