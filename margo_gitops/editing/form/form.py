"""A deployment as a form: which questions there are, and what an answer does; pure.

FORM-1  The questions are the application's own sections in its own order, then the devices, then the preferred profiles
        where a chosen device can run several.
FORM-2  The code of a render judges an answer at once: by the application's schema, and for an expression or an
        immutable setting on every device that has the deployment.
FORM-3  A refused answer changes nothing. A kept answer is judged as well, so a form never ends with a value that a
        render refuses.
FORM-4  Placement judges devices: each chosen device can run the application.
FORM-5  A form knows only what differs from the Deployment as it is. Its result is the request of `deploy`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import TypeAlias

from margo_gitops.documents.application import ValueSchema
from margo_gitops.documents.components import ParameterValue
from margo_gitops.documents.constraints import DeviceSelector
from margo_gitops.editing.deploy import DeployRequest, DeployTarget
from margo_gitops.editing.form.form_checks import FormCheck
from margo_gitops.editing.selectors import parse_selector
from margo_gitops.editing.values import parameter_schemas, picked, typed_answer
from margo_gitops.errors import AnswerRefused
from margo_gitops.operations.application_catalog import ShownSetting, shown_sections
from margo_gitops.values import dataclass, field, replace


@dataclass(frozen=True, slots=True)
class ParameterQuestion:
    """What a parameter must be.

    Attributes:
        section: the heading that it is under.
        schema: what the application wants; None where it does not say.
    """

    section: str
    setting: ShownSetting
    schema: ValueSchema | None


@dataclass(frozen=True, slots=True)
class PlacementQuestion:
    """Which devices get it."""


@dataclass(frozen=True, slots=True)
class ProfileQuestion:
    """Which profiles are preferred.

    Attributes:
        profiles: ids that may be named, each with the number of chosen devices that could run it.
    """

    profiles: Mapping[str, int]


Question: TypeAlias = ParameterQuestion | PlacementQuestion | ProfileQuestion


@dataclass(frozen=True, slots=True)
class Answers:
    """What differs from the Deployment as it is.

    Attributes:
        placement: where it goes; None: as it is.
        profiles: ids, best first; empty: as they are.
    """

    parameters: Mapping[str, ParameterValue] = field(default_factory=dict)
    unset: frozenset[str] = frozenset()
    placement: DeviceSelector | None = None
    profiles: tuple[str, ...] = ()


@dataclass(frozen=True)
class Form:
    """A form as far as it is filled in.

    Attributes:
        check: what answers are judged against: the fleet, the Deployment, and what was rendered before.
        at: number of the question that is asked.
    """

    check: FormCheck
    answers: Answers = field(default_factory=Answers)
    at: int = 0

    @property
    def target(self) -> DeployTarget:
        """The Deployment, and the application in the version that it will run."""
        return self.check.target

    @cached_property
    def questions(self) -> tuple[Question, ...]:
        """Every question, as the answers so far have them (FORM-1)."""
        return (*self._parameter_questions(), PlacementQuestion(), *self._profile_questions())

    @property
    def question(self) -> Question | None:
        """The question that is asked; None where the form is filled in."""
        return self.questions[self.at] if self.at < len(self.questions) else None

    @property
    def placement(self) -> DeviceSelector | None:
        """Where the deployment goes, as answered or as it is."""
        known = self.target.known
        return self.answers.placement or (known.value.spec.placement if known else None)

    @property
    def profiles(self) -> tuple[str, ...]:
        """The preferred profiles, as answered or as they are."""
        return self.answers.profiles or self.check.known_profiles

    def value(self, parameter: str) -> ParameterValue | None:
        """Return what the Deployment says of a parameter, as answered or as it is; None where it says nothing."""
        known = self.target.known
        if parameter in self.answers.parameters:
            return self.answers.parameters[parameter]
        return known.value.spec.parameters.get(parameter) if known and parameter not in self.answers.unset else None

    def begin(self) -> Form:
        """Return the form with its first answers judged: those that were given before the first question.

        Raises:
            ParameterNotTyped, AnswerRefused, ReferenceUnknown: one of them cannot be taken.
        """
        known = self.target.known
        for name in self.answers.unset:
            if known is None or name not in known.value.spec.parameters:
                raise AnswerRefused(f"the deployment {self.target.name} does not set {name}")
        for name in {*self.answers.parameters, *self.answers.unset}:
            self.check.parameter(name, self.value(name), self.answers.parameters, self.answers.unset)
        for profile in self.answers.profiles:
            self.check.profile(profile)
        if self.answers.placement is not None:
            self.check.placement(self.answers.placement, self.profiles)
        return self

    def answered(self, text: str) -> Form:
        """Return the form with the question answered, at the next one (FORM-2).

        Args:
            text: what was typed; empty keeps what is there.

        Raises:
            ParameterNotTyped, SelectorInvalid, ReferenceUnknown, AnswerRefused: the answer cannot be taken.
        """
        question = self.question
        if isinstance(question, ParameterQuestion):
            name = question.setting.parameter
            if text:
                value = typed_answer(self.target.description, name, question.schema, text)
                return self._with_parameter(name, value)
            self.check.parameter(name, self.value(name), self.answers.parameters, self.answers.unset)
        elif isinstance(question, PlacementQuestion):
            return self._placed(text)
        elif isinstance(question, ProfileQuestion):
            return self._preferring(text, question)
        return self._next(self.answers)

    def emptied(self) -> Form:
        """Return the form with the parameter set to an empty text or list, at the next question.

        Raises:
            AnswerRefused: the question is of no parameter.
            ParameterNotTyped: it must not be empty.
        """
        question = self._parameter_question("can be empty")
        return self._with_parameter(
            question.setting.parameter,
            typed_answer(self.target.description, question.setting.parameter, question.schema, ""),
        )

    def defaulted(self) -> Form:
        """Return the form with the parameter taken out of the Deployment, at the next question.

        Raises:
            AnswerRefused: the question is of no parameter, or nothing else gives it a value.
        """
        name = self._parameter_question("has a default").setting.parameter
        set_now = {each: value for each, value in self.answers.parameters.items() if each != name}
        known = self.target.known
        unset = self.answers.unset | ({name} if known and name in known.value.spec.parameters else frozenset())
        self.check.parameter(name, None, set_now, unset)
        return self._next(replace(self.answers, parameters=set_now, unset=unset))

    def back(self) -> Form:
        """Return the form at the question before; at the first one, itself."""
        return replace(self, at=max(0, min(self.at, len(self.questions)) - 1))

    def request(self) -> DeployRequest:
        """Return what `deploy` is asked for (FORM-5)."""
        return DeployRequest(
            self.target.description.id,
            self.target.version,
            self.target.name,
            self.answers.placement,
            self.answers.parameters,
            tuple(sorted(self.answers.unset)),
            self.answers.profiles,
        )

    def _parameter_questions(self) -> Iterator[ParameterQuestion]:
        description = self.target.description
        for section in shown_sections(description):
            for setting in section.settings:
                schema = next(iter(parameter_schemas(description, setting.parameter)), None)
                yield ParameterQuestion(section.name, setting, schema)

    def _profile_questions(self) -> Iterator[ProfileQuestion]:
        """Yield the question of profiles, where placement alone cannot tell."""
        if self.placement is None or (self.profiles and not self.answers.profiles):
            return
        judged = self.check.compatible.by_device
        chosen = [judged[target.id].profiles for target in self.check.chosen(self.placement)]
        if any(len(profiles) > 1 for profiles in chosen):
            counts = Counter(profile for profiles in chosen for profile in profiles)
            ids = (each.id for each in self.target.description.deployment_profiles)
            yield ProfileQuestion({name: counts[name] for name in ids if counts[name]})

    def _parameter_question(self, which: str) -> ParameterQuestion:
        if not isinstance(self.question, ParameterQuestion):
            raise AnswerRefused(f"only a parameter {which}")
        return self.question

    def _with_parameter(self, name: str, value: ParameterValue) -> Form:
        set_now = {**self.answers.parameters, name: value}
        unset = self.answers.unset - {name}
        self.check.parameter(name, value, set_now, unset)
        return self._next(replace(self.answers, parameters=set_now, unset=unset))

    def _placed(self, text: str) -> Form:
        placement = self._typed_placement(text) if text else self.placement
        if placement is None:
            raise AnswerRefused(f"the deployment {self.target.name} is new: say which devices get it")
        self.check.placement(placement, self.profiles)
        return self._next(replace(self.answers, placement=placement) if text else self.answers)

    def _typed_placement(self, text: str) -> DeviceSelector:
        devices = [each.device for each in self.check.compatible.devices if each.compatible]
        numbers = picked(text, len(devices))
        if numbers is None:
            return parse_selector(text, self.check.intent)
        return DeviceSelector(devices=tuple(devices[number - 1] for number in numbers))

    def _preferring(self, text: str, question: ProfileQuestion) -> Form:
        ids = list(question.profiles)
        numbers = picked(text, len(ids)) if text else None
        if numbers is not None:
            named = tuple(ids[number - 1] for number in numbers)
        else:
            named = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip())) or self.profiles
        if not named:
            raise AnswerRefused("some of these devices could run several profiles: say which ones are preferred")
        for profile in named:
            self.check.profile(profile)
        if self.placement is not None:
            self.check.placement(self.placement, named)
        return self._next(replace(self.answers, profiles=named))

    def _next(self, answers: Answers) -> Form:
        return replace(self, answers=answers, at=self.at + 1)
