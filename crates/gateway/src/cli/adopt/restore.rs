//! `uninstall`: this gateway goes, and with `--restore` OpenClaw's own has its port again.

use super::*;

pub(in crate::cli) fn uninstall(
    profile: Option<&str>,
    args: &Uninstall,
) -> anyhow::Result<ExitCode> {
    let mut at = Place::look(profile)?;
    let (socket, ours) = (at.unit(service::SOCKET)?, at.unit(service::UNIT)?);
    let is_active = |unit: &Option<Unit>| unit.as_ref().is_some_and(|unit| unit.active);
    let holder = procfs::found_at(at.port);
    let running = match &holder {
        Some((pid, Holder::Us(_))) => Some(Running::read(*pid)?),
        // Our socket unit, which has started nothing yet.
        Some((_, Holder::Manager(_))) if is_active(&socket) => None,
        Some((_, holder @ (Holder::Other(_) | Holder::Manager(_)))) => bail!(
            "port {} is held by {holder}: stop it first, so that OpenClaw can have it",
            at.port
        ),
        Some((_, Holder::OpenClaw(_))) | None => None,
    };
    let is_restored = matches!(holder, Some((_, Holder::OpenClaw(_))));
    let record = Record::read(&at.paths.own_dir);
    let enabled = record.as_ref().is_none_or(|record| record.enabled);
    at.record = record.unwrap_or_default();
    let mut steps = Vec::new();
    let surroundings = running.as_ref().map(|running| running.surroundings.clone());
    // Beside a unit that comes to nothing another one may have the port.
    steps.extend(
        running
            .filter(|running| !ours.as_ref().is_some_and(|unit| unit.runs(running.pid)))
            .map(Step::EndOurs),
    );
    let socket_on = is_active(&socket);
    if socket_on || is_active(&ours) {
        let both = socket.into_iter().chain(ours);
        // Whoever connects to a socket that is on starts the service, after this look too.
        let units = both.filter(|unit| unit.active || unit.enabled || socket_on);
        steps.push(Step::StopOurs(units.collect()));
    }
    let locals = locals(&at.paths);
    if args.restore && !is_restored {
        let name = at.record.unit.clone();
        let unit = at.unit(&name.unwrap_or_else(|| manager::original(profile)))?;
        match unit.filter(|_| !at.record.by_hand) {
            Some(unit) => steps.push(Step::StartService { unit, enabled }),
            None => {
                let surroundings = surroundings.unwrap_or_else(process::Surroundings::own);
                at.openclaw(&surroundings.env())
                    .context("OpenClaw's gateway could not be started in this one's place")?;
                steps.push(Step::StartOriginal(surroundings));
            }
        }
        if at.record.by_hand && at.record.enabled {
            let name = at.record.unit.as_deref().filter(|_| at.managed);
            steps.extend(name.map(|name| Step::EnableService(Unit::named(name))));
        }
    }
    let file = service::unit_for_user(profile)?;
    let mut installed = vec![service::SOCKET, service::UNIT];
    installed.retain(|name| file.with_file_name(name).exists());
    if !installed.is_empty() {
        steps.push(Step::RemoveOurs(installed));
    }
    if args.restore && !locals.is_empty() {
        steps.push(Step::HandOver(locals.clone()));
    }
    if at.record != Record::default() {
        steps.push(Step::ForgetRecord);
    }
    // To ask at a socket of the manager's would start what is to stop.
    if !matches!(holder, Some((_, Holder::Manager(_)))) {
        tell_of_messages(&at);
    }
    if steps.is_empty() {
        print("nothing of this gateway is installed or runs");
        return Ok(ExitCode::SUCCESS);
    }
    let walked = walk(&at, &steps, args.dry_run)?;
    if walked == Walked::Undone {
        return Ok(walked.code());
    }
    for local in locals.iter().filter(|_| args.restore) {
        print(&format!("paired here alone: {}", local.what));
    }
    if args.restore && !locals.is_empty() {
        print(
            "they pair with OpenClaw at their next connect: by themselves on this machine, elsewhere once approved (`openclaw devices approve`)",
        );
    }
    Ok(walked.code())
}

/// What was accepted and not sent stays here, since the original can't read it.
fn tell_of_messages(at: &Place<'_>) {
    let Ok(listed) = api::get(at.profile, &at.to, "/api/messages?state=pending&limit=200") else {
        return;
    };
    let waiting = listed["messages"].as_array().map_or(0, Vec::len);
    if waiting > 0 {
        complain(&format!(
            "{waiting} messages wait to be sent and stay in openclaw-rs/messages.db, until this gateway runs again: `openclaw-gateway messages list --state pending`"
        ));
    }
}
