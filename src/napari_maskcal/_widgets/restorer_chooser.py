"""The chooser of restorers: files of any format, agreed to and tried when they are chosen."""

from collections.abc import Iterator
from dataclasses import replace
from html import escape
from pathlib import Path

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QDialog, QMessageBox

from napari_maskcal._widgets.fields import ModelChooser, one_line
from napari_maskcal._widgets.restorer_dialog import RestorerDialog
from napari_maskcal._widgets.runner import Runner
from napari_maskcal.models import DEMO, is_bundle, model_path
from napari_maskcal.restore.card import ModelCard
from napari_maskcal.restore.events import Done, Event, Failed
from napari_maskcal.restore.kinds import GIVEN
from napari_maskcal.restore.loaders.base import NotDescribedError, NotTrustedError, content_sha256
from napari_maskcal.restore.loaders.description import read_description, write_description
from napari_maskcal.restore.loaders.native import is_native
from napari_maskcal.restore.loaders.registry import loader_of
from napari_maskcal.restore.loaders.trust import trust
from napari_maskcal.review.request import Problem, restorer_card, restorer_facts

_PATTERN = "Networks (*.pt2 *.pt *.pth *.ts *.onnx *.zip *.safetensors *.ckpt *.maskcal);;All files (*)"
_ABOUT = "\0about"  # the entry that shows again how a file is used; no path
_SHOWN_OF_SHA256 = 16
_ROOM_PX = 90  # of the words around a file's name, and of the arrow


class RestorerChooser(ModelChooser):
    """The bundled restorer, a file of any format, chosen or dropped, or none where another tool has restored.

    Before a file that can run code is opened, the user is asked. One that does not say how its network is used is
    tried in a thread, and what was found is shown. The earlier choice stays until the new one can be used, or what
    is wrong with it can be said. What was said of a file once can be looked at again, and changed.
    """

    def __init__(self, *, given: str) -> None:
        super().__init__("", given=given)
        self._pattern = _PATTERN
        self._trying: Path | None = None
        self._dialog: RestorerDialog | None = None
        self._fault = ("", "", "")  # the file, what is said of it without a trial, and what the trial said
        self.runner = Runner(self)
        self.runner.ended.connect(self._tried)
        self.destroyed.connect(self.runner.abandon)

    def choose(self, value: str) -> None:
        """Take what the user chose, once it is agreed to and described; the last two may take a while."""
        if self.runner.running or self._dialog is not None:
            return
        if value == _ABOUT:
            self._show_again()
            return
        self._fault = ("", "", "")
        hurdle = _hurdle(value)
        if isinstance(hurdle, NotTrustedError):
            if not self._agreed(hurdle):
                return
            try:
                # The content that the question was about, whatever the file is by now.
                trust(hurdle.sha256, name=hurdle.path.name)
            except (ValueError, OSError) as error:
                self._take_faulty(value, error)
                return
            hurdle = _hurdle(value)
        if isinstance(hurdle, NotDescribedError):
            self._try(Path(value))
        else:
            super().choose(value)

    def setValue(self, value: str | Path) -> None:
        """Choose a restorer as it is, without a question or a trial; a trial under way is forgotten."""
        self.stop()
        super().setValue(value)
        self._offer_about()

    def explained(self, problems: list[Problem]) -> list[Problem]:
        """Return the problems of a form, with what a trial of the restorer has shown, and what to do here."""
        hurdle = _hurdle(self.value())
        if hurdle is not None and self._fault[0] != self.value():
            return [replace(one, message=_remedy(hurdle)) if one.message == str(hurdle) else one for one in problems]
        value, known, shown = self._fault
        others = [problem for problem in problems if problem.message != known]
        if value != self.value() or (known and len(others) == len(problems)):
            return problems  # it is chosen no more, or there is another file of that name by now
        return [Problem(field="restorer", message=shown), *others]

    def stop(self) -> None:
        """Forget the trial under way, and what was to be asked after it."""
        self.runner.abandon()
        self._show_trial(None)
        dialog, self._dialog = self._dialog, None
        if dialog is not None:
            dialog.close()
            dialog.deleteLater()

    def _agreed(self, asked: NotTrustedError) -> bool:
        """Ask the user whether a file that can run code may be opened."""
        file_format = loader_of(asked.path).name
        words = (
            f"<p><b>{escape(asked.path.name)}</b> is a {escape(file_format)} file. Such a file can hold a program as "
            "well as a network: to open it is to let it do on this computer whatever you can do yourself.</p>"
            "<p>Open it only if you know who made it, and trust them.</p>"
            f"<p>File: {escape(str(asked.path))}<br>Format: {escape(file_format)}<br>"
            f"SHA-256: {asked.sha256[:_SHOWN_OF_SHA256]}…</p>"
            "<p>Do you want to open it? You will not be asked again for this file.</p>"
        )
        yes, no = QMessageBox.StandardButton.Yes, QMessageBox.StandardButton.No
        return bool(QMessageBox.question(self, "Open a file that can run code?", words, yes | no, no) == yes)

    def _try(self, path: Path) -> None:
        self._show_trial(path)
        self.runner.start(lambda _: _trial(path))

    def _show_trial(self, path: Path | None) -> None:
        """Say that a file is tried, or show what is chosen."""
        if self._trying is not None:
            self.removeItem(0)
            self.setCurrentIndex(self.findData(self.value()))
            self.setEnabled(True)
        self._trying = path
        if path is not None:
            room = max(self.width() - _ROOM_PX, _ROOM_PX)
            name = self.fontMetrics().elidedText(path.name, Qt.TextElideMode.ElideMiddle, room)
            self.insertItem(0, f"trying {name} …")
            self.setCurrentIndex(0)
            self.setEnabled(False)

    def _tried(self, event: Event | None) -> None:
        path = self._trying
        self._show_trial(None)
        if path is None:
            return
        if isinstance(event, Failed):
            self._take_faulty(str(path), event.error)
        elif isinstance(event, Done):
            self._ask(path, *event.result, again=False)

    def _offer_about(self) -> None:
        """Offer to show how the chosen file is used, if it is one of others that was described."""
        if (index := self.findData(_ABOUT)) >= 0:
            self.removeItem(index)
        if self.value() not in (DEMO, GIVEN) and _is_described(Path(self.value())):
            self.insertItem(self.count() - 1, f"how {Path(self.value()).name} is used…", _ABOUT)

    def _show_again(self) -> None:
        """Show how the chosen file is used, and let it be changed; it may be another file by now."""
        path = Path(self.value())
        try:
            sha256 = content_sha256(path)
            card = read_description(path, sha256, kind=loader_of(path).kind)
        except (ValueError, OSError) as error:
            self._take_faulty(str(path), error)
            return
        if card is None:
            self.choose(str(path))
        else:
            self._ask(path, card, sha256, again=True)

    def _ask(self, path: Path, card: ModelCard, sha256: str, *, again: bool) -> None:
        self._dialog = dialog = RestorerDialog(path.name, card, self, again=again)
        dialog.finished.connect(lambda result: self._described(path, card, sha256, result, again=again))
        dialog.open()

    def _described(self, path: Path, card: ModelCard, sha256: str, result: int, *, again: bool) -> None:
        """Keep what the user said of a file, beside what the trial showed."""
        dialog, self._dialog = self._dialog, None
        if dialog is None:  # closed from here
            return
        dialog.deleteLater()
        if result == QDialog.DialogCode.Accepted:
            try:
                said = {"takes": dialog.takes(), "pixel_size": dialog.pixel_size()}
                write_description(path, card.model_copy(update=said), sha256)
            except (ValueError, OSError) as error:
                self._take_faulty(str(path), error)
                return
        elif again:
            return
        super().choose(str(path))

    def _take_faulty(self, value: str, error: Exception) -> None:
        """Choose a file that cannot be used, so that the form says why."""
        self._fault = (value, restorer_card(value)[2] or "", one_line(error))
        super().choose(value)


def _hurdle(value: str) -> NotTrustedError | NotDescribedError | None:
    """Return what has to be done before a restorer can be used; of other faults the form speaks."""
    if value in (DEMO, GIVEN):
        return None
    try:
        restorer_facts(model_path(value, role="restorer"))
    except (NotTrustedError, NotDescribedError) as error:
        return error
    except (ValueError, OSError, MemoryError, ImportError):
        return None
    return None


def _remedy(hurdle: NotTrustedError | NotDescribedError) -> str:
    """Return what is said where no command is typed."""
    if isinstance(hurdle, NotTrustedError):
        return f"{hurdle.path} can run code, and nobody agreed to open it yet; choose it once more, and you are asked"
    return f"{hurdle.path} does not say how its network is to be used; choose it once more, and it is tried"


def _trial(path: Path) -> Iterator[Event]:
    """Load a restorer, which describes it; runs in a thread, so torch is first imported here."""
    try:
        from napari_maskcal.models import load_restorer

        sha256 = content_sha256(path)
        yield Done(result=(load_restorer(path).card, sha256))
    except Exception as error:  # noqa: BLE001 - an exception in a generator worker would be lost
        yield Failed(error=error)


def _is_described(path: Path) -> bool:
    """Whether a file is a restorer of others that can be used, and so was described; in a bundle that is settled."""
    try:
        own = path.exists() and not is_native(path) and not is_bundle(path)
        return own and restorer_card(str(path))[0] is not None
    except (ValueError, OSError):
        return False
