use super::*;

mod flags;
mod syntax;
mod together;

/// Parses the words after the program's name, with no environment.
fn parse_words(words: &[&str]) -> Result<Invocation, clap::Error> {
    parse_with(words, &[])
}

/// The same with these environment variables.
fn parse_with(words: &[&str], variables: &[(&str, &str)]) -> Result<Invocation, clap::Error> {
    let argv = std::iter::once(&"ovl-agent").chain(words).map(OsString::from);
    parse(argv, |name| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into()))
}

/// The options of `run` that the words ask for.
fn run(words: &[&str]) -> RunArgs {
    run_with(words, &[])
}

fn run_with(words: &[&str], variables: &[(&str, &str)]) -> RunArgs {
    match parse_with(words, variables).unwrap_or_else(|error| panic!("{words:?}: {error}")).command {
        Command::Run(run) => *run,
        other @ (Command::Status(_)
        | Command::Flows(_)
        | Command::Probe(_)
        | Command::Trace(_)
        | Command::DockerOpts(_)
        | Command::Cleanup(_)) => {
            panic!("{words:?} is not run but {other:?}")
        }
    }
}

/// The first line of the refusal, which goes to standard error with a status other than 0.
fn refusal(words: &[&str], variables: &[(&str, &str)]) -> String {
    let error = parse_with(words, variables).expect_err(&format!("{words:?} {variables:?}"));
    assert!(error.use_stderr() && error.exit_code() != 0, "{words:?}");
    error.to_string().lines().next().unwrap_or_default().to_owned()
}
