"""Short programs for the calibration of the embedding clusters: several ways to do each of some tasks."""

TASKS: dict[str, list[str]] = {
    "reverse": [
        "def reverse(text):\n    return text[::-1]",
        "def reverse(s):\n    result = ''\n    for letter in s:\n        result = letter + result\n    return result",
        "def reverse(word):\n    return ''.join(reversed(word))",
    ],
    "add": [
        "def add(a, b):\n    return a + b",
        "def add(x, y):\n    total = x\n    total += y\n    return total",
        "def add(first, second):\n    return sum([first, second])",
    ],
    "is_prime": [
        "def is_prime(n):\n    if n < 2:\n        return False\n    for i in range(2, int(n ** 0.5) + 1):\n        if n % i == 0:\n            return False\n    return True",
        "def is_prime(n):\n    return n > 1 and all(n % d for d in range(2, n))",
        "def is_prime(number):\n    if number <= 1:\n        return False\n    divisor = 2\n    while divisor * divisor <= number:\n        if number % divisor == 0:\n            return False\n        divisor += 1\n    return True",
    ],
    "factorial": [
        "def factorial(n):\n    return 1 if n == 0 else n * factorial(n - 1)",
        "def factorial(n):\n    result = 1\n    for i in range(2, n + 1):\n        result *= i\n    return result",
        "import math\n\ndef factorial(n):\n    return math.prod(range(1, n + 1))",
    ],
    "vowels": [
        "def count_vowels(s):\n    return sum(c in 'aeiou' for c in s.lower())",
        "def count_vowels(text):\n    count = 0\n    for letter in text:\n        if letter.lower() in 'aeiou':\n            count += 1\n    return count",
        "import re\n\ndef count_vowels(s):\n    return len(re.findall('[aeiou]', s, re.IGNORECASE))",
    ],
    "unique": [
        "def unique(items):\n    return list(dict.fromkeys(items))",
        "def unique(values):\n    seen = set()\n    out = []\n    for value in values:\n        if value not in seen:\n            seen.add(value)\n            out.append(value)\n    return out",
        "def unique(xs):\n    result = []\n    for x in xs:\n        if x not in result:\n            result.append(x)\n    return result",
    ],
    "fibonacci": [
        "def fib(n):\n    a, b = 0, 1\n    for _ in range(n):\n        a, b = b, a + b\n    return a",
        "def fib(n):\n    if n < 2:\n        return n\n    return fib(n - 1) + fib(n - 2)",
        "from functools import cache\n\n@cache\ndef fib(k):\n    return k if k < 2 else fib(k - 1) + fib(k - 2)",
    ],
    "maximum": [
        "def largest(numbers):\n    return max(numbers)",
        "def largest(numbers):\n    best = numbers[0]\n    for number in numbers[1:]:\n        if number > best:\n            best = number\n    return best",
        "def largest(xs):\n    return sorted(xs)[-1]",
    ],
    "palindrome": [
        "def is_palindrome(s):\n    return s == s[::-1]",
        "def is_palindrome(word):\n    left, right = 0, len(word) - 1\n    while left < right:\n        if word[left] != word[right]:\n            return False\n        left += 1\n        right -= 1\n    return True",
        "def is_palindrome(text):\n    return list(text) == list(reversed(text))",
    ],
    "words": [
        "def count_words(text):\n    return len(text.split())",
        "def count_words(sentence):\n    words = sentence.split()\n    count = 0\n    for word in words:\n        count += 1\n    return count",
        "import re\n\ndef count_words(s):\n    return len(re.findall(r'\\S+', s))",
    ],
    "multiply": [
        "def multiply(a, b):\n    return a * b",
        "def multiply(x, y):\n    result = 0\n    for _ in range(y):\n        result += x\n    return result",
        "import math\n\ndef multiply(a, b):\n    return math.prod((a, b))",
    ],
    "gcd": [
        "def gcd(a, b):\n    while b:\n        a, b = b, a % b\n    return a",
        "import math\n\ndef gcd(x, y):\n    return math.gcd(x, y)",
        "def gcd(a, b):\n    return a if b == 0 else gcd(b, a % b)",
    ],
}

TEXTS: dict[str, list[str]] = {
    "paris": ["The capital of France is Paris.", "Paris", "It's Paris, the capital city of France."],
    "photosynthesis": [
        "Plants turn sunlight, water and carbon dioxide into sugar and oxygen.",
        "Using light, plants make glucose from CO2 and water and release oxygen.",
        "Photosynthesis: light energy is stored as sugar, oxygen is given off.",
    ],
    "gravity": [
        "Things fall because the Earth's gravity pulls them down.",
        "Gravity attracts objects towards the centre of the Earth.",
        "It falls since mass attracts mass: the Earth pulls on it.",
    ],
    "rain": [
        "Water evaporates, condenses into clouds and falls as rain.",
        "Rain forms when water vapour in clouds condenses into drops that get too heavy.",
        "Clouds are water vapour; once the droplets are heavy they come down as rain.",
    ],
    "no_solution": [
        "The equation has no solution.",
        "There is no value of x that satisfies it.",
        "No real number solves the equation.",
    ],
    "moon": [
        "The Moon's gravity causes the tides.",
        "Tides come from the pull of the Moon on the oceans.",
        "Mostly the Moon: its gravitational pull raises the sea.",
    ],
}
