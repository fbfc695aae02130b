"""The simulator's programs on the same scheduler, one step of the engine model at a time: slow and plain."""

import random

from hf_dynasor.core import RequestKey
from hf_dynasor.scheduler import ProgramSpec, RequestSpec, Scheduler
from hf_dynasor.scheduler.estimates import WorkEstimator
from hf_dynasor.scheduler.simulate.programs import SimulatedProgram


def run_step_by_step(simulation):
    """The same programs on the same scheduler, one step at a time, with a clock that adds up each step."""
    rng = random.Random(f"{simulation.seed}/arrivals")
    times = simulation.arrivals.draw(simulation.num_programs, rng)
    order = random.Random(f"{simulation.seed}/questions")
    count, drawn = len(simulation.workload.questions), []
    while len(drawn) < len(times):
        drawn.extend(order.sample(range(count), count))
    scheduler = Scheduler(
        simulation.scheduling,
        limits=simulation.limits,
        ageing=simulation.ageing,
        estimator=WorkEstimator(prior_tokens=simulation.workload.mean_branch_tokens),
    )
    programs, ends, now, arrived = {}, {}, 0.0, 0

    def submit(name, indices, time):
        program = programs[name]
        for index in indices:
            request = RequestSpec(
                key=RequestKey(program_id=name, request_id=str(index)),
                prompt_tokens=program.question.prompt_tokens,
                max_tokens=program.branches[index].num_tokens,
            )
            scheduler.submitted(request, time)

    while len(ends) < len(times):
        while arrived < len(times) and times[arrived] <= now:
            question = simulation.workload.questions[drawn[arrived]]
            branches = random.Random(f"{simulation.seed}/{arrived}").sample(
                question.branches, simulation.workload.budget
            )
            name, time = str(arrived), times[arrived]
            programs[name] = SimulatedProgram(question, branches, simulation.allocation, "samples")
            deadline = time + simulation.slo_scale * question.difficulty * simulation.slo_base
            scheduler.program_submitted(
                ProgramSpec(program_id=name, kind="random", planned_units=len(branches), deadline=deadline),
                time,
            )
            submit(name, programs[name].ask(), time)
            arrived += 1
        plan = scheduler.plan_step(now)
        if plan.is_empty:
            now = times[arrived]
            continue
        context = scheduler.num_context_tokens
        now += simulation.engine.time_step(len(plan.decode), context, plan.num_prefill_tokens)
        scheduler.advance()
        ran = [*plan.decode, *(chunk.key for chunk in plan.prefill if chunk.is_last)]
        for key in ran:
            program = programs[key.program_id]
            if scheduler.count_generated(key) < program.branches[int(key.request_id)].num_tokens:
                continue
            scheduler.finished(key, now)
            if program.note_finished(int(key.request_id)):
                scheduler.certaindex_updated(key.program_id, program.certaindex, now)
                if indices := program.ask():
                    submit(key.program_id, indices, now)
                else:
                    scheduler.program_finished(key.program_id, now)
                    ends[key.program_id] = now
    return [ends[str(index)] for index in range(len(times))]
