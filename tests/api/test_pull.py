"""Progress lines of a download in Ollama's form."""

from reconciler.api.ollama.pull import _progress
from reconciler.core.records import ModelRef
from reconciler.models.download import Job


async def test_a_download_that_ends_in_its_last_step_is_shown_as_complete() -> None:
    job = Job(ModelRef("maker/model", None), total=10, downloaded=7)
    lines = _progress(job)
    assert (await anext(lines))["completed"] == 7
    job.downloaded, job.status = 10, "completed"
    job.note_change()
    assert [line["completed"] async for line in lines] == [10]
